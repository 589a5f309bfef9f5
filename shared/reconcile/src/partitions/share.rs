//! How many partitions each replica takes. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::hash::preference;

/// How many periods a replica leaves free partitions to replicas that hold fewer, before it takes them itself.
const MAX_PERIODS_WAITED: u32 = 3;

/// What a replica has observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing<'a> {
    /// Its name.
    pub(crate) me: &'a str,
    /// How many partitions there are.
    pub(crate) count: u32,
    /// Its own partitions.
    pub(crate) mine: BTreeSet<u32>,
    /// The other live replicas, and how many partitions each holds.
    pub(crate) others: BTreeMap<&'a str, u32>,
    /// The partitions without a live holder.
    pub(crate) free: BTreeSet<u32>,
    /// For how many periods in a row there were free ones and it took none.
    pub(crate) waited: u32,
}

/// What a replica does next.
#[derive(Debug, PartialEq)]
pub(crate) enum Move {
    /// Take these, in this order.
    Take(Vec<u32>),
    /// Release this one, for a replica that holds fewer.
    Give(u32),
    /// Nothing: the partitions are balanced, or other replicas take them first.
    Rest,
}

impl Standing<'_> {
    /// At most ceil(partitions / replicas) for each. The replica with the fewest takes first. A replica with two more than another
    /// one releases one, and the next one after that was taken.
    pub(crate) fn next(&self) -> Move {
        let have = u32::try_from(self.mine.len()).unwrap_or(u32::MAX);
        let fewest = self.others.values().min().copied();
        if self.free.is_empty() {
            let least_preferred = self.mine.iter().min_by_key(|partition| preference(self.me, **partition));
            return match least_preferred {
                Some(partition) if fewest.is_some_and(|fewest| have >= fewest + 2) => Move::Give(*partition),
                _ => Move::Rest,
            };
        }
        let replicas = u32::try_from(self.others.len()).unwrap_or(u32::MAX).saturating_add(1);
        let share = self.count.div_ceil(replicas);
        let turn = if self.waited >= MAX_PERIODS_WAITED {
            share
        } else {
            fewest.map_or(share, |fewest| share.min(fewest + 1))
        };
        let mut preferred: Vec<u32> = self.free.iter().copied().collect();
        preferred.sort_by_key(|partition| Reverse(preference(self.me, *partition)));
        preferred.truncate(turn.saturating_sub(have) as usize);
        if preferred.is_empty() { Move::Rest } else { Move::Take(preferred) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Has replicas act one after the other until nothing changes. Returns the number of rounds.
    fn rebalance(count: u32, replicas: &[&str], owners: &mut BTreeMap<u32, String>) -> usize {
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
        panic!("never balanced: {owners:?}");
    }

    proptest! {
        #[test]
        fn partitions_become_balanced(count in 1_u32..20, sizes in prop::collection::vec(1_usize..6, 1..6)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let mut owners = BTreeMap::new();
            for size in sizes {
                let replicas = &names[..size];
                rebalance(count, replicas, &mut owners);
                prop_assert_eq!(owners.len(), count as usize, "every partition is held");
                let has = |who: &&str| owners.values().filter(|owner| owner == who).count();
                let (most, fewest) = (replicas.iter().map(has).max(), replicas.iter().map(has).min());
                prop_assert!(most.unwrap() - fewest.unwrap() <= 1, "{:?}", owners);
            }
        }
    }

    #[test]
    fn few_partitions_move_to_a_new_replica() {
        let mut owners = BTreeMap::new();
        rebalance(12, &["a", "b"], &mut owners);
        let before = owners.clone();
        rebalance(12, &["a", "b", "c"], &mut owners);
        let moved = before.iter().filter(|(partition, owner)| owners[*partition] != **owner).count();
        assert!((4..=5).contains(&moved), "{moved}: the new one has a third, and hardly more than that moves");
    }

    #[test]
    fn a_replica_that_takes_nothing_delays_others_only_briefly() {
        let others = BTreeMap::from([("idle", 0)]);
        let standing =
            |waited| Standing { me: "a", count: 4, mine: [0].into(), others: others.clone(), free: [1].into(), waited };
        assert_eq!(standing(0).next(), Move::Rest);
        assert_eq!(standing(MAX_PERIODS_WAITED).next(), Move::Take(vec![1]));
    }
}
