use super::*;
use crate::postgres::ownership::Cluster;

fn server(databases: usize) -> Observed {
    let cluster = Cluster::new("cluster");
    let database = |index: usize| {
        let ownership = Ownership {
            cluster: cluster.id.clone(),
            object: cluster.object("n", &index.to_string()),
            uid: format!("uid-{index}"),
            state: State::Active,
            extensions: None,
            frozen: false,
            full: false,
        };
        (format!("c_{index:012}"), DatabaseState { comment: Some(ownership.comment()), ..DatabaseState::default() })
    };
    Observed { databases: (0..databases).map(database).collect(), ..Observed::default() }
}

fn objects(range: std::ops::Range<usize>) -> HashSet<String> {
    range.map(|index| format!("uid-{index}")).collect()
}

#[test]
fn an_orphan_is_closed_in_the_second_sweep() {
    let (cluster, mut memory) = (Cluster::new("cluster").id, Memory::default());
    assert_eq!(orphans(&server(10), &cluster, &objects(1..10), &mut memory), Orphans::default());
    assert_eq!(memory.unclaimed, [Cluster::new("cluster").object("n", "0")].into());
    let second = orphans(&server(10), &cluster, &objects(1..10), &mut memory);
    assert_eq!(
        second.close.iter().map(|orphan| orphan.names.database.as_str()).collect::<Vec<_>>(),
        ["c_000000000000"]
    );
    // Its object existed in between.
    let mut memory = Memory::default();
    orphans(&server(10), &cluster, &objects(1..10), &mut memory);
    orphans(&server(10), &cluster, &objects(0..10), &mut memory);
    assert_eq!(orphans(&server(10), &cluster, &objects(1..10), &mut memory), Orphans::default());
}

#[test]
fn many_missing_objects_close_nothing() {
    let (cluster, mut memory) = (Cluster::new("cluster").id, Memory::default());
    for _ in 0..3 {
        let found = orphans(&server(100), &cluster, &HashSet::new(), &mut memory);
        assert_eq!(found, Orphans { close: vec![], too_many: Some(100) });
    }
}

#[test]
fn databases_of_other_clusters_are_not_ours() {
    let mut memory = Memory::default();
    for _ in 0..2 {
        assert_eq!(orphans(&server(2), "another", &HashSet::new(), &mut memory), Orphans::default());
    }
    assert_eq!((memory.unclaimed.len(), databases(&server(2), "another")), (0, 0));
    let theirs = Cluster::new("cluster").id;
    assert_eq!(databases(&server(2), &theirs), 2);
    let found = |cluster: &str, shared: &[String]| other_clusters(&server(2), cluster, shared);
    assert_eq!(found("another", &[]), [OtherCluster { id: theirs.clone(), databases: 2 }]);
    assert_eq!(found("another", std::slice::from_ref(&theirs)), []);
    assert_eq!(found(&theirs, &[]), []);
}

#[test]
fn ten_rounds_cover_a_list() {
    for count in [0, 1, 20, 21, 199, 200, 201, 2000] {
        let all: Vec<usize> = (0..count).collect();
        let mut seen: Vec<usize> = (0..10).flat_map(|round| share(&all, round).to_vec()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, all, "{count}");
    }
    assert_eq!(share(&[1, 2, 3], 7), [1, 2, 3], "a short list is covered in each round");
}
