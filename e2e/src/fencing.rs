//! Checks in the audit log of the API server that replicas of a controller wrote only objects of their partitions.
//!
//! The Leases of the partitions show which pod held which partition and when. Each write must begin and end while its pod holds
//! the partition of the object.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use anyhow::Result;
use jiff::Timestamp;
use serde_json::Value;

use crate::audit::Audit;
use crate::system::SYSTEM;

/// Request of a replica.
#[derive(Clone, Debug)]
pub struct Act {
    /// Pod that sent the request.
    pub pod: String,
    /// When the API server received the request.
    pub asked: Timestamp,
    /// When the API server answered.
    pub answered: Timestamp,
    /// Effect of the request.
    pub what: What,
}

/// Effect of a request.
#[derive(Clone, Debug)]
pub enum What {
    /// Wrote an object of a customer.
    Wrote {
        /// Name of the customer.
        customer: String,
        /// Description for reports.
        line: String,
    },
    /// Set the holder of the Lease of a partition.
    Named {
        /// Number of the partition.
        partition: u32,
        /// Pod that holds it. Empty: no pod.
        holder: String,
    },
}

/// Time in which a pod held a partition.
#[derive(Clone, Debug)]
struct Tenure {
    pod: String,
    from: Timestamp,
    /// When the request for the next holder was sent. None: the pod still holds it.
    to: Option<Timestamp>,
}

/// Result of the check.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Number of writes.
    pub writes: usize,
    /// Number of times that a partition got a holder.
    pub handovers: usize,
    /// Number of writes by pod.
    pub by_pod: BTreeMap<String, usize>,
    /// Writes of pods that did not hold the partition.
    pub violations: Vec<String>,
}

/// Checks all requests. `partition_of` returns the partition of a customer.
pub fn check(acts: &[Act], partition_of: impl Fn(&str) -> u32) -> Verdict {
    let tenures = tenures(acts);
    let mut verdict = Verdict { handovers: tenures.values().map(Vec::len).sum(), ..Verdict::default() };
    for act in acts {
        let What::Wrote { customer, line } = &act.what else { continue };
        let partition = partition_of(customer);
        verdict.writes += 1;
        *verdict.by_pod.entry(act.pod.clone()).or_default() += 1;
        let had = |tenure: &Tenure| {
            tenure.pod == act.pod && tenure.from <= act.asked && tenure.to.is_none_or(|to| act.answered <= to)
        };
        let known = tenures.get(&partition).map(Vec::as_slice).unwrap_or_default();
        if !known.iter().any(had) {
            let Act { pod, asked, answered, .. } = act;
            verdict
                .violations
                .push(format!("{pod} {line} on partition {partition} from {asked} to {answered}: {known:?}"));
        }
    }
    verdict
}

fn tenures(acts: &[Act]) -> BTreeMap<u32, Vec<Tenure>> {
    let mut named: Vec<(&Act, u32, &str)> = Vec::new();
    for act in acts {
        if let What::Named { partition, holder } = &act.what {
            named.push((act, *partition, holder));
        }
    }
    named.sort_by_key(|(act, ..)| act.answered);
    let mut tenures = BTreeMap::<u32, Vec<Tenure>>::new();
    for (act, partition, holder) in named {
        let of_partition = tenures.entry(partition).or_default();
        // A restarted container finds the Lease with the name of its own pod.
        if of_partition.last().is_some_and(|last| last.to.is_none() && last.pod == holder) {
            continue;
        }
        if let Some(last) = of_partition.last_mut() {
            last.to.get_or_insert(act.asked);
        }
        if !holder.is_empty() {
            of_partition.push(Tenure { pod: holder.to_owned(), from: act.asked, to: None });
        }
    }
    tenures
}

/// Returns the requests of a controller since `mark`, and the number of its writes that name no customer, such as the creation
/// of cluster-scoped objects.
pub fn acts(mark: &Audit, controller: &str) -> Result<(Vec<Act>, usize)> {
    let mut file = File::open(mark.path())?;
    file.seek(SeekFrom::Start(mark.from()))?;
    let (mut acts, mut unnamed) = (Vec::new(), 0);
    for line in BufReader::new(file).lines() {
        // The last line may be incomplete.
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        if event["user"]["username"] != format!("system:serviceaccount:{SYSTEM}:{controller}") || !succeeded(&event) {
            continue;
        }
        match what(&event, controller) {
            Some(What::Wrote { customer, .. }) if customer.is_empty() => unnamed += 1,
            Some(what) => acts.push(Act {
                pod: event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]
                    .as_str()
                    .unwrap_or_default()
                    .into(),
                asked: event["requestReceivedTimestamp"].as_str().unwrap_or_default().parse()?,
                answered: event["stageTimestamp"].as_str().unwrap_or_default().parse()?,
                what,
            }),
            None => {}
        }
    }
    Ok((acts, unnamed))
}

/// A write that was refused changed nothing.
fn succeeded(event: &Value) -> bool {
    event["responseStatus"]["code"].as_i64().is_some_and(|code| (200..300).contains(&code))
}

fn what(event: &Value, controller: &str) -> Option<What> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let (verb, resource) = (text(&event["verb"]), text(&object["resource"]));
    let (namespace, name) = (text(&object["namespace"]), text(&object["name"]));
    if !matches!(verb.as_str(), "create" | "update" | "patch" | "delete") || resource == "events" {
        return None;
    }
    if resource == "leases" {
        let lease = &event["requestObject"];
        let name = text(&lease["metadata"]["name"]);
        let partition = name.strip_prefix(&format!("{controller}-"))?.split_once("-of-")?.0.parse().ok()?;
        return Some(What::Named { partition, holder: text(&lease["spec"]["holderIdentity"]) });
    }
    let owner = if namespace.is_empty() { &name } else { &namespace };
    let customer = owner.strip_prefix("customer-").unwrap_or(owner).to_owned();
    Some(What::Wrote { customer, line: format!("{verb} {resource} {namespace}/{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(pod: &str, asked: i64, answered: i64, what: What) -> Act {
        let at = |second| Timestamp::from_second(second).unwrap();
        Act { pod: pod.into(), asked: at(asked), answered: at(answered), what }
    }

    fn named(pod: &str, at: i64, holder: &str) -> Act {
        act(pod, at, at + 1, What::Named { partition: 0, holder: holder.into() })
    }

    fn wrote(pod: &str, asked: i64, answered: i64) -> Act {
        act(pod, asked, answered, What::Wrote { customer: "acme".into(), line: "update".into() })
    }

    fn violations(acts: &[Act]) -> usize {
        check(acts, |_| 0).violations.len()
    }

    #[test]
    fn consecutive_holders_are_no_violation() {
        let given = [named("a", 0, "a"), wrote("a", 2, 3), named("a", 10, ""), named("b", 12, "b"), wrote("b", 14, 15)];
        assert_eq!(violations(&given), 0);
        let taken = [named("a", 0, "a"), wrote("a", 2, 3), named("b", 20, "b"), wrote("b", 22, 23)];
        assert_eq!(violations(&taken), 0);
        let restarted = [named("a", 0, "a"), wrote("a", 2, 3), named("a", 5, "a"), wrote("a", 7, 8)];
        assert_eq!((violations(&restarted), check(&restarted, |_| 0).handovers), (0, 1));
    }

    #[test]
    fn writes_without_the_partition_are_violations() {
        let late = [named("a", 0, "a"), named("b", 20, "b"), wrote("a", 22, 23)];
        assert_eq!(violations(&late), 1, "the former holder writes again");
        let across = [named("a", 0, "a"), wrote("a", 9, 11), named("a", 10, "")];
        assert_eq!(violations(&across), 1, "a write ends after the partition was released");
        let never = [named("a", 0, "a"), wrote("b", 2, 3)];
        assert_eq!(violations(&never), 1, "a pod that never held the partition");
        let early = [wrote("a", 0, 1), named("a", 2, "a")];
        assert_eq!(violations(&early), 1);
    }
}
