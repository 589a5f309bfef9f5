use super::*;
use proptest::prelude::*;

#[test]
fn names_come_from_the_uid() {
    let names = Names::from_uid("3F2504e0-4f89-41d3-9a0c-0305e82c3301");
    assert_eq!(names.database, "c_3f2504e04f89");
    assert_eq!(names.owner, "c_3f2504e04f89_owner");
    assert_eq!(names.login, "c_3f2504e04f89_a");
    assert_eq!(names.archived(1_790_000_000), "zz_c_3f2504e04f89_1790000000");
}

#[test]
fn the_published_login_is_in_use() {
    let names = Names::of("c_3f2504e04f89");
    assert_eq!((names.login.as_str(), names.other.as_str()), ("c_3f2504e04f89_a", "c_3f2504e04f89_b"));
    assert_eq!(names.clone().used_by("c_3f2504e04f89_b"), names.clone().rotated());
    assert_eq!(names.clone().used_by("c_3f2504e04f89_a"), names);
    assert_eq!(names.clone().used_by("postgres"), names);
}

#[test]
fn other_names_are_not_ours() {
    for name in ["postgres", "c_3f2504e04f89", "c_3f2504e04f89_c", "c_3F2504E04F89_a", "c_3f25_a", "owner", "_a", ""] {
        assert!(!is_role(name), "{name}");
    }
    for name in ["postgres", "c_3f2504e04f8", "c_3f2504e04f89a", "zz_c_3f2504e04f89_1", "c_3f2504e04f8é"] {
        assert!(!is_database(name), "{name}");
    }
}

proptest! {
    #[test]
    fn fit_in_63_bytes_and_are_recognised(uid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", time in 0_i64..=i64::from(u32::MAX)) {
        let names = Names::from_uid(&uid);
        prop_assert!(is_database(&names.database));
        for role in [&names.owner, &names.login, &names.other, &names.frozen] {
            prop_assert!(is_role(role));
            prop_assert!(role.len() <= 63);
        }
        prop_assert!(names.archived(time).len() <= 63);
    }
}
