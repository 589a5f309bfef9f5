//! The condition about databases of other clusters on a server. Pure.

use ahoi_api::{DatabaseServer, DatabaseServerStatus};
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition};

/// Type of the condition, which exists only while it is true, and reason of its event.
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
        ("Adopting", message.to_owned())
    } else {
        let message = format!(
            "databases belong to other clusters (number of databases): {}. To adopt the databases of a cluster that does not exist \
             any more, set spec.adoptFromCluster to its id. Add the id of a cluster that also uses this server to \
             spec.sharedWithClusters. Until then, no Database gets an empty database in place of one of these",
            undecided.join(", ")
        );
        ("Undecided", message)
    };
    let desired = DesiredCondition::new(DATA_OF_OTHER_CLUSTERS, ConditionStatus::True, reason, message);
    let _ = conditions::set(&mut status.conditions, desired.observed_generation(server.metadata.generation));
}

#[cfg(test)]
mod tests {
    use ahoi_api::OtherCluster;

    use super::*;
    use crate::testing::server;

    #[test]
    fn other_clusters_are_reported_until_the_spec_lists_them() {
        let mut server = server("pg-1");
        let mut status = DatabaseServerStatus::default();
        let reason = |server: &DatabaseServer, status: &mut DatabaseServerStatus| {
            set_condition(status, server);
            let found = conditions::find(&status.conditions, DATA_OF_OTHER_CLUSTERS);
            found.map(|condition| (condition.reason.clone(), condition.message.clone()))
        };
        assert_eq!(reason(&server, &mut status), None);
        status.other_clusters = vec![OtherCluster { id: "9577416226f80000".into(), databases: 3 }];
        let (undecided, message) = reason(&server, &mut status).unwrap();
        assert_eq!(undecided, "Undecided");
        assert!(message.contains("9577416226f80000 (3)") && message.contains("spec.adoptFromCluster"), "{message}");
        server.spec.adopt_from_cluster = Some("9577416226f80000".into());
        assert_eq!(reason(&server, &mut status).unwrap().0, "Adopting");
        status.other_clusters.clear();
        assert_eq!(reason(&server, &mut status), None);
    }
}
