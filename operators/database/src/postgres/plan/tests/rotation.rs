use super::*;

/// A whole rotation: the next login is created and published, the former one stays open, and is closed.
#[test]
fn logins_are_rotated() {
    let here = provisioned(170_006);
    let names = desired().names;
    let (next, fresh) = (names.clone().rotated(), "SCRAM-SHA-256$4096:salt$next:server");
    let rotating = Desired { names: next.clone(), verifier: fresh.into(), other: OtherLogin::Former, ..desired() };
    let steps = open(&rotating, &here).unwrap();
    insta::assert_snapshot!(sql(&steps, 170_006));
    let both = after(here.clone(), &steps);
    assert_eq!(open(&rotating, &both).unwrap(), []);
    assert_eq!(both.roles[&names.login], here.roles[&names.login], "clients of the former login are not affected");

    // Changes to the former login are reverted, except for its password, which is not known any more.
    let mut tampered = both.clone();
    let former = tampered.roles.get_mut(&names.login).unwrap();
    (former.login, former.limit) = (false, 3);
    former.settings.clear();
    former.member_of.clear();
    let steps = open(&rotating, &tampered).unwrap();
    assert_eq!(after(tampered, &steps), both);
    let mut dropped = both.clone();
    dropped.roles.remove(&names.login);
    assert_eq!(open(&rotating, &dropped).unwrap(), [], "it gets no new password");

    let done = Desired { other: OtherLogin::Closed, ..rotating };
    let steps = open(&done, &both).unwrap();
    assert_eq!(steps, [Step::NoLogin { role: names.login.clone() }]);
    let closed = after(both, &steps);
    assert_eq!(open(&done, &closed).unwrap(), []);

    // The next rotation reopens it with another password.
    let back = Desired { other: OtherLogin::Former, ..desired() };
    let steps = open(&back, &closed).unwrap();
    assert_eq!(topics(&steps), ["login"]);
    let again = after(closed, &steps);
    assert_eq!(again.roles[&next.login].verifier.as_deref(), Some(fresh));
}
