use super::*;
use proptest::prelude::*;

fn candidate(name: &str) -> Candidate {
    Candidate { name: name.into(), ready: true, ..Candidate::default() }
}

fn chosen(bytes: i64, candidates: &[Candidate]) -> Result<String, String> {
    choose(&Need { selector: &BTreeMap::new(), bytes }, candidates).map_err(|error| error.reason().to_owned())
}

#[test]
fn the_most_free_storage_wins() {
    let with = |name: &str, capacity, allocated| Candidate { capacity: Some(capacity), allocated, ..candidate(name) };
    assert_eq!(chosen(10, &[with("a", 100, 60), with("b", 90, 20), with("c", 50, 0)]), Ok("b".into()));
    assert_eq!(chosen(80, &[with("a", 100, 60), with("b", 90, 20)]), Err("NoFreeCapacity".into()));
}

#[test]
fn without_limits_the_least_used_wins() {
    let with = |name: &str, allocated, databases| Candidate { allocated, databases, ..candidate(name) };
    assert_eq!(chosen(10, &[with("a", 5, 9), with("b", 5, 3), with("c", 6, 0)]), Ok("b".into()));
}

#[test]
fn the_number_of_databases_is_limited() {
    let full = Candidate { databases: 3, max_databases: Some(3), ..candidate("a") };
    assert_eq!(chosen(1, std::slice::from_ref(&full)), Err("NoFreeCapacity".into()));
    assert_eq!(chosen(1, &[full, candidate("b")]), Ok("b".into()));
}

#[test]
fn the_selector_is_respected() {
    let selector = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
    let need = Need { selector: &selector, bytes: 1 };
    let gold = Candidate { labels: selector.clone(), ..candidate("gold") };
    assert_eq!(choose(&need, &[candidate("any"), gold]).unwrap(), "gold");
    let error = choose(&need, &[candidate("any")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no DatabaseServer that accepts new databases has the labels tier=gold of spec.serverSelector: correct it, or label a \
         DatabaseServer"
    );
}

#[test]
fn closed_and_reserved_servers_are_skipped() {
    let with = |name: &str, placement| Candidate {
        placement,
        labels: [("tier".to_owned(), "gold".to_owned())].into(),
        ..candidate(name)
    };
    let servers = [with("closed", Placement::Closed), with("reserved", Placement::Selected)];
    assert_eq!(chosen(1, &servers), Err("NoMatchingDatabaseServer".into()));
    let selector = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
    assert_eq!(choose(&Need { selector: &selector, bytes: 1 }, &servers).unwrap(), "reserved");
    assert!(choose(&Need { selector: &selector, bytes: 1 }, &servers[..1]).is_err());
}

#[test]
fn a_server_that_is_not_ready_is_waited_for() {
    let down = |name: &str| Candidate { ready: false, ..candidate(name) };
    let error = choose(&Need { selector: &BTreeMap::new(), bytes: 1 }, &[down("b"), down("a")]).unwrap_err();
    assert_eq!(
        (error.reason(), error.to_string().as_str()),
        ("WaitingForDatabaseServer", "DatabaseServer a and b is not Ready")
    );
    assert_eq!(chosen(1, &[down("a"), candidate("c")]), Ok("c".into()));
}

#[test]
fn recent_placements_count() {
    let placements = Placements::default();
    let need = Need { selector: &BTreeMap::new(), bytes: 10 };
    let candidates = || vec![candidate("a"), candidate("b")];
    let place = |uid: &str| placements.choose(uid, &need, candidates, |_| true).unwrap();
    assert_eq!([place("1"), place("2"), place("3")], ["a", "b", "a"]);
    assert_eq!(place("3"), "a", "a retry does not count twice");
    // They are in the status, so the candidates count them.
    assert_eq!(placements.choose("4", &need, candidates, |_| false).unwrap(), "a");
}

proptest! {
    #[test]
    fn capacity_is_never_exceeded(servers in proptest::collection::vec((0..5_i64, 0..500_i64), 1..5), needs in proptest::collection::vec(1..200_i64, 0..20)) {
        let mut candidates: Vec<_> = servers.iter().enumerate().map(|(index, (max, capacity))| Candidate {
            max_databases: Some(*max), capacity: Some(*capacity), ..candidate(&format!("s{index}"))
        }).collect();
        for bytes in needs {
            if let Ok(name) = chosen(bytes, &candidates) {
                let server = candidates.iter_mut().find(|candidate| candidate.name == name).unwrap();
                server.databases += 1;
                server.allocated += bytes;
                prop_assert!(server.databases <= server.max_databases.unwrap() && server.allocated <= server.capacity.unwrap());
            }
        }
    }
}
