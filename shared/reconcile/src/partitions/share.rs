//! Who should have how many partitions. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::hash::liking;

/// How often a replica leaves free partitions to those who have fewer, before it takes them itself.
const PATIENCE: u32 = 3;

/// What a replica knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing<'a> {
    /// Its name.
    pub(crate) me: &'a str,
    /// How many partitions there are.
    pub(crate) count: u32,
    /// Its own partitions.
    pub(crate) mine: BTreeSet<u32>,
    /// The replicas that are there, this one aside, and how many partitions each has.
    pub(crate) others: BTreeMap<&'a str, u32>,
    /// The partitions that nobody has, or somebody who is not there any more.
    pub(crate) free: BTreeSet<u32>,
    /// How often in a row there have been free ones, and it took none.
    pub(crate) waited: u32,
}

/// What a replica does about that.
#[derive(Debug, PartialEq)]
pub(crate) enum Move {
    /// Take these, in this order.
    Take(Vec<u32>),
    /// Give this one to whoever has fewer.
    Give(u32),
    /// All is well, or it is others' turn.
    Rest,
}

impl Standing<'_> {
    /// At most ceil(partitions / replicas) for each. Whoever has the fewest takes first; whoever has two more than somebody else
    /// gives one away, and another when that has found its way.
    pub(crate) fn next(&self) -> Move {
        let have = u32::try_from(self.mine.len()).unwrap_or(u32::MAX);
        let fewest = self.others.values().min().copied();
        if self.free.is_empty() {
            let least_liked = self.mine.iter().min_by_key(|partition| liking(self.me, **partition));
            return match least_liked {
                Some(partition) if fewest.is_some_and(|fewest| have >= fewest + 2) => Move::Give(*partition),
                _ => Move::Rest,
            };
        }
        let replicas = u32::try_from(self.others.len()).unwrap_or(u32::MAX).saturating_add(1);
        let share = self.count.div_ceil(replicas);
        let turn = if self.waited >= PATIENCE { share } else { fewest.map_or(share, |fewest| share.min(fewest + 1)) };
        let mut liked: Vec<u32> = self.free.iter().copied().collect();
        liked.sort_by_key(|partition| Reverse(liking(self.me, *partition)));
        liked.truncate(turn.saturating_sub(have) as usize);
        if liked.is_empty() { Move::Rest } else { Move::Take(liked) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of it when replicas act one after the other; the rounds it took.
    fn settle(count: u32, replicas: &[&str], owners: &mut BTreeMap<u32, String>) -> usize {
        let mut waited = BTreeMap::<&str, u32>::new();
        for round in 0..200 {
            let before = owners.clone();
            for me in replicas {
                owners.retain(|_, owner| replicas.contains(&owner.as_str()));
                let has = |who: &str| -> BTreeSet<u32> {
                    owners.iter().filter(|(_, owner)| *owner == who).map(|(partition, _)| *partition).collect()
                };
                let others = replicas.iter().filter(|who| *who != me);
                let others = others.map(|who| (*who, u32::try_from(has(who).len()).unwrap())).collect();
                let free: BTreeSet<u32> = (0..count).filter(|partition| !owners.contains_key(partition)).collect();
                let (mine, waited) = (has(me), waited.entry(me).or_default());
                let standing = Standing { me, count, mine, others, free, waited: *waited };
                match standing.next() {
                    Move::Take(partitions) => {
                        owners.extend(partitions.into_iter().map(|partition| (partition, (*me).to_owned())))
                    }
                    Move::Give(partition) => drop(owners.remove(&partition)),
                    Move::Rest if !standing.free.is_empty() => *waited += 1,
                    Move::Rest => *waited = 0,
                }
            }
            if *owners == before {
                return round;
            }
        }
        panic!("it never comes to rest: {owners:?}");
    }

    proptest! {
        #[test]
        fn everybody_comes_to_have_the_same(count in 1_u32..20, sizes in prop::collection::vec(1_usize..6, 1..6)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let mut owners = BTreeMap::new();
            for size in sizes {
                let replicas = &names[..size];
                settle(count, replicas, &mut owners);
                prop_assert_eq!(owners.len(), count as usize, "nothing is left alone");
                let has = |who: &&str| owners.values().filter(|owner| owner == who).count();
                let (most, fewest) = (replicas.iter().map(has).max(), replicas.iter().map(has).min());
                prop_assert!(most.unwrap() - fewest.unwrap() <= 1, "{:?}", owners);
            }
        }
    }

    #[test]
    fn few_partitions_move_when_a_replica_comes() {
        let mut owners = BTreeMap::new();
        settle(12, &["a", "b"], &mut owners);
        let before = owners.clone();
        settle(12, &["a", "b", "c"], &mut owners);
        let moved = before.iter().filter(|(partition, owner)| owners[*partition] != **owner).count();
        assert!((4..=5).contains(&moved), "{moved}: the new one has a third, and hardly more than that moves");
    }

    #[test]
    fn a_replica_that_takes_nothing_keeps_nobody_waiting_for_long() {
        let others = BTreeMap::from([("idle", 0)]);
        let standing =
            |waited| Standing { me: "a", count: 4, mine: [0].into(), others: others.clone(), free: [1].into(), waited };
        assert_eq!(standing(0).next(), Move::Rest);
        assert_eq!(standing(PATIENCE).next(), Move::Take(vec![1]));
    }
}
