//! The condition about databases of other clusters on a server. Pure.

use ahoi_api::{DatabaseServer, DatabaseServerStatus, Reason};
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition};

/// Type of the condition, which exists only while it is true.
pub const DATA_OF_OTHER_CLUSTERS: &str = "DataOfOtherClusters";

/// Sets the condition for the databases of other clusters that the status lists.
pub fn set_condition(status: &mut DatabaseServerStatus, server: &DatabaseServer) {
    if status.other_clusters.is_empty() {
        conditions::remove(&mut status.conditions, DATA_OF_OTHER_CLUSTERS);
        return;
    }
    let adopted = server.spec.adopt_from_cluster.as_ref();
    let undecided: Vec<String> = status
        .other_clusters
        .iter()
        .filter(|other| Some(&other.id) != adopted)
        .map(|other| format!("{} ({})", other.id, other.databases))
        .collect();
    let (reason, message) = if undecided.is_empty() {
        let message = "spec.adoptFromCluster is set: a Database of the same namespace and name as a database of that cluster \
                       adopts it when it is created";
        (Reason::Adopting, message.to_owned())
    } else {
        let message = format!(
            "databases belong to other clusters (number of databases): {}. To adopt the databases of a cluster that does not exist \
             any more, set spec.adoptFromCluster to its id. Add the id of a cluster that also uses this server to \
             spec.sharedWithClusters. Until then, no Database gets an empty database in place of one of these",
            undecided.join(", ")
        );
        (Reason::Undecided, message)
    };
    let desired = DesiredCondition::new(DATA_OF_OTHER_CLUSTERS, ConditionStatus::True, reason, message);
    let _ = conditions::set(&mut status.conditions, desired.observed_generation(server.metadata.generation));
}

#[cfg(test)]
mod tests;
