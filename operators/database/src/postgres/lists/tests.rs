use super::*;

#[test]
fn lists_are_canonical() {
    for (given, expected) in [
        ("app, public", "app, public"),
        (" App ,\"App\",\"$user\"", "app, \"App\", \"$user\""),
        ("\"a\"\"b, c\"", "\"a\"\"b, c\""),
        ("", "\"\""),
        ("\"\"", "\"\""),
    ] {
        let found = canonical(given).unwrap();
        assert_eq!(found, expected, "{given}");
        assert_eq!(canonical(&found).unwrap(), expected, "stable");
    }
    for wrong in ["app public", "app,", ",", "\"app", "a\"b", "app,,public"] {
        assert_eq!(canonical(wrong), None, "{wrong}");
    }
}

#[test]
fn each_name_is_a_literal() {
    assert_eq!(sql("search_path", "app, \"$user\""), "'app', '$user'");
    assert_eq!(sql("search_path", "\"it's\""), "'it''s'");
    assert_eq!(sql("search_path", "\"\""), "''");
    assert_eq!(sql("DateStyle", "ISO, DMY"), "'ISO, DMY'");
}

#[test]
fn the_stored_spelling_is_the_same_list() {
    // A reserved word is quoted.
    assert!(is_set("search_path=app, \"user\"", "search_path", "app, user"));
    assert!(!is_set("search_path=user, app", "search_path", "app, user"));
    assert!(!is_set("search_path=\"app, user\"", "search_path", "app, user"));
    assert!(!is_set("work_mem=8MB, 1", "work_mem", "8MB,1"));
    assert!(is_set("work_mem=8MB", "work_mem", "8MB"));
}
