use super::*;
use proptest::prelude::*;

fn wanted(index: usize) -> Wanted {
    Wanted { desired: None, database: format!("c_{index}"), storage: 100, reported: Some(10), level: Level::Within }
}

fn written(counts: impl IntoIterator<Item = (usize, i64)>) -> HashMap<String, i64> {
    counts.into_iter().map(|(index, count)| (format!("c_{index}"), count)).collect()
}

fn counted(written: HashMap<String, i64>) -> Activity {
    Activity { counted: true, written, ..Activity::default() }
}

#[test]
fn each_database_is_measured_once_in_a_round_of_slices() {
    let all: Vec<_> = (0..300).map(wanted).collect();
    let counts = written((0..300).map(|index| (index, 7)));
    let mut seen: HashMap<String, usize> = HashMap::new();
    for measurements in 0..SLICES {
        let memory = Memory { measurements, written: counts.clone(), ..Memory::default() };
        for database in due(all.iter(), &counted(counts.clone()), &memory) {
            *seen.entry(database).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 300);
    assert!(seen.values().all(|times| *times == 1));
}

#[test]
fn written_databases_are_measured_at_once() {
    // In another slice than that of this measurement.
    let small = wanted((0..).find(|index| slice_of(&format!("c_{index}")) != 0).unwrap());
    let name = small.database.clone();
    let counts = |count| HashMap::from([(name.clone(), count)]);
    let memory = Memory { written: counts(5), ..Memory::default() };
    let is_due = |wanted: &Wanted, activity: &Activity, memory: &Memory| {
        due([wanted].into_iter(), activity, memory) == [name.clone()]
    };
    assert!(!is_due(&small, &counted(counts(5)), &memory), "nothing was written");
    assert!(is_due(&small, &counted(counts(6)), &memory), "a row was written");
    assert!(is_due(&small, &counted(counts(2)), &memory), "the statistics were reset");
    assert!(is_due(&small, &counted(HashMap::new()), &memory), "the statistics were lost");
    assert!(is_due(&small, &counted(counts(5)), &Memory::default()), "nothing is known yet");
    let busy = Activity { busy: [name.clone()].into(), ..counted(counts(5)) };
    assert!(is_due(&small, &busy, &memory), "a transaction has not ended");
    assert!(is_due(&small, &Activity { counted: false, ..counted(counts(5)) }, &memory), "nothing is counted");
    for level in [Level::Exceeded, Level::Closed] {
        let full = Wanted { level, ..wanted(0) };
        let full = Wanted { database: name.clone(), ..full };
        assert!(is_due(&full, &counted(counts(5)), &memory), "{level:?}");
    }
}

#[test]
fn only_full_databases_are_watched_for_growth() {
    let now = Instant::now();
    let sizes = [("c_1".to_owned(), 99), ("c_2".to_owned(), 100), ("c_3".to_owned(), 95)].into();
    let mut memory = Memory { sizes, ..Memory::default() };
    let full = Wanted { level: Level::Exceeded, ..wanted(3) };
    let all = [wanted(1), wanted(2), full, wanted(4)];
    memory.note_growth(&all.iter().collect::<Vec<_>>(), now);
    let mut watched: Vec<_> = memory.growth.keys().map(String::as_str).collect();
    watched.sort_unstable();
    assert_eq!(watched, ["c_2", "c_3"]);
    memory.sizes.insert("c_2".into(), 50);
    memory.note_growth(&all.iter().collect::<Vec<_>>(), now);
    assert!(!memory.growth.contains_key("c_2"));
}

proptest! {
    /// A database whose counter changed is measured, in whichever slice it is.
    #[test]
    fn no_write_is_missed(counts in proptest::collection::vec((0..5_i64, 0..5_i64), 0..40), measurements in any::<u64>()) {
        let all: Vec<_> = (0..counts.len()).map(wanted).collect();
        let before = written(counts.iter().enumerate().map(|(index, (before, _))| (index, *before)));
        let after = written(counts.iter().enumerate().map(|(index, (_, after))| (index, *after)));
        let memory = Memory { measurements, written: before, ..Memory::default() };
        let due: HashSet<_> = due(all.iter(), &counted(after), &memory).into_iter().collect();
        for (index, (before, after)) in counts.iter().enumerate() {
            let name = format!("c_{index}");
            prop_assert!(before == after || due.contains(&name));
        }
    }
}
