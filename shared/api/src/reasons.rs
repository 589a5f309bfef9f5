//! The reasons of conditions and events.
//!
//! Each reason is documented once, here, with its cause and its remedy; `docs/reference/reasons.md` is generated from this file.
//! Code compares variants (`condition.reason == Reason::PlanNotFound`), never text, and one fault has one reason on every kind.
//!
//! Kubernetes has reasons of its own: why a pod does not start, why a Deployment does not progress. A controller passes them through
//! unchanged, as text, because the list is not ours and grows with Kubernetes. They have no variant, and [`Reason::parse`] returns `None` for
//! them; [`KUBERNETES_REASONS`] documents those that occur most often.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares an enum of reasons out of a table of `Variant: "cause" => "remedy"` with headings.
macro_rules! reasons {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $heading:literal { $( $variant:ident: $cause:literal => $remedy:literal, )+ } )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $( $(
                #[doc = $cause]
                #[doc = ""]
                #[doc = concat!("Remedy: ", $remedy)]
                $variant,
            )+ )+
        }

        impl $name {
            /// Every reason, in the order of the reference page.
            pub const ALL: &[$name] = &[$( $( $name::$variant, )+ )+];

            /// The reasons by the heading under which the reference page has them.
            pub const GROUPS: &[(&str, &[$name])] = &[$( ($heading, &[$( $name::$variant, )+]), )+];

            /// The text in `condition.reason` or `event.reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( $( $name::$variant => stringify!($variant), )+ )+
                }
            }

            /// What it means.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self {
                    $( $( $name::$variant => $cause, )+ )+
                }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $( $( $name::$variant => $remedy, )+ )+
                }
            }

            /// The reason with this text. `None` for a reason of Kubernetes or of another release.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                $name::ALL.iter().copied().find(|reason| reason.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl From<$name> for &'static str {
            fn from(reason: $name) -> Self {
                reason.as_str()
            }
        }

        impl From<$name> for String {
            fn from(reason: $name) -> Self {
                reason.as_str().to_owned()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, text: &str) -> bool {
                self.as_str() == text
            }
        }

        impl PartialEq<$name> for str {
            fn eq(&self, reason: &$name) -> bool {
                self == reason.as_str()
            }
        }

        impl PartialEq<$name> for &str {
            fn eq(&self, reason: &$name) -> bool {
                *self == reason.as_str()
            }
        }

        impl PartialEq<$name> for String {
            fn eq(&self, reason: &$name) -> bool {
                self == reason.as_str()
            }
        }
    };
}

reasons! {
    /// Why a condition has its status.
    pub enum Reason {
        "Everything is as desired" {
            Ready: "The object is as its spec describes it." => "Nothing to do.",
            Disabled: "The feature is off." => "Nothing to do. To use the feature, set `enabled` to true in `spec.features`.",
            AllAvailable: "All workers are ready." => "Nothing to do.",
            AllHealthy: "The last run of each job succeeded, or has not finished yet." => "Nothing to do.",
            Succeeded: "The migration of the current version succeeded." => "Nothing to do.",
            WithinStorageQuota: "The database uses less than 80 % of its storage." => "Nothing to do.",
            EnoughSpace: "The disk of the DatabaseServer is less than 85 % full." => "Nothing to do.",
            Limited: "Temporary files of each session on the DatabaseServer are limited." => "Nothing to do.",
            Closed: "Only logins with a grant can connect to the databases postgres and template1." => "Nothing to do.",
            Done: "PostgreSQL was restarted for the current maintenance request." => "Nothing to do. The next request needs another value of `spec.maintenance.request`.",
        }
        "In progress: the controllers continue by themselves" {
            Pending: "The object is new and no controller has reconciled it." => "Wait. If it stays so, check that the controller of the kind runs (`kubectl -n ahoi-system get pods`).",
            Progressing: "At least one feature of the Customer is not ready yet; the message names it." => "Wait, or read the condition of the feature.",
            Creating: "The controller is creating the database." => "Wait.",
            Retrying: "A request failed for a reason that usually passes: a conflict, a timeout, or an unreachable API server." => "Wait. If it stays so, read the message and the log of the controller.",
            NotReported: "The controller of the child object has not reported its latest state." => "Wait. If it stays so, check that the controller of that kind runs.",
            CacheNotSynced: "The controller has just started and has not read all objects that it needs." => "Wait.",
            WaitingForNamespace: "The namespace of the customer does not exist yet or is not active." => "Wait, or read the status of the CustomerNamespace.",
            WaitingForDatabase: "The Database or its binding Secret is not ready." => "Read the status of the Database.",
            WaitingForConnectionPool: "The ConnectionPool or its binding Secret is not ready." => "Read the status of the ConnectionPool.",
            WaitingForDatabaseServer: "No DatabaseServer that the Database needs is Ready." => "Read the status of the DatabaseServer that the message names.",
            DatabaseServerNotPrepared: "The DatabaseServer has no login for pgbouncer yet." => "Wait, or read the status of the DatabaseServer.",
            WaitingForDeletion: "An earlier object of the same name is still being deleted." => "Wait. If it stays so, see what its finalizers wait for.",
            NamespaceTerminating: "The namespace is being deleted." => "Wait. If it stays so, the conditions of the Namespace name what remains in it.",
            RollingOut: "Workers are starting or being replaced; the message counts them." => "Wait.",
            Migrating: "The migration Job is due or running; workers of the new version start after it." => "Wait, or read the log of the Job.",
            Reconnecting: "The migration succeeded, and the connection pool replaces its server connections before the new workers start." => "Wait.",
            Routing: "Not every pgbouncer process has loaded the route of the ConnectionPool." => "Wait. If it stays so, read `status.processes` of the PgBouncer.",
            Draining: "The ConnectionPool is being deleted and waits for open transactions to end." => "Wait, or end the clients.",
            Unrouting: "The ConnectionPool is being deleted, and not every pgbouncer process has removed its route." => "Wait. If it stays so, read the status of the PgBouncer.",
            Starting: "Pods of the PgBouncer fleet are starting." => "Wait. If it stays so, describe the pods that the message names.",
            NotLoaded: "A pgbouncer process has not loaded its configuration; the message has the error." => "Correct what the message names. The agent retries.",
            NoProcesses: "The shard of the ConnectionPool has no pgbouncer process that serves clients." => "Wait, or read the status of the PgBouncer.",
            Pausing: "The pgbouncer processes are holding their clients for the maintenance request." => "Wait until the condition ReadyToRestart is True, then restart PostgreSQL.",
            ReadyToRestart: "All pgbouncer processes hold their clients." => "Restart PostgreSQL now.",
            SecretLost: "The binding Secret was deleted or modified again; the login is replaced at the time that the message names." => "Wait, and find out which client deletes or modifies the Secret.",
            Removing: "The feature was turned off, and its object is being deleted." => "Wait.",
            Offboarding: "The Customer is being deleted; the message names what remains." => "Wait.",
            RemovalRefused: "PostgreSQL refused a statement of the removal; the message has its error." => "Correct what the message names. The removal is retried.",
            TooManyPendingRemovals: "The DatabaseServer has as many pending removals as its status can hold." => "Repair the DatabaseServer so that the pending removals can finish.",
            Adopting: "The DatabaseServer has databases of another cluster, and `spec.adoptFromCluster` names that cluster." => "Wait until the databases are adopted.",
        }
        "Set by you" {
            Paused: "`spec.reconcilePolicy` is Paused: the controller changes nothing." => "Set `spec.reconcilePolicy` to Normal.",
            ReconcilePolicy: "The condition Paused follows `spec.reconcilePolicy`." => "Nothing to do.",
            Suspended: "`spec.runPolicy` is Suspended: no workers and no jobs run." => "Set `spec.runPolicy` to Running.",
        }
        "The spec of the object or its Plan has to change" {
            PlanNotFound: "The Plan of the Customer does not exist." => "Create the Plan, or set `spec.plan` to one that exists.",
            ExceedsPlan: "A value in the spec exceeds a limit of the Plan. The former value stays in force." => "Lower the value, raise the limit in `spec.limits` of the Plan, or choose another Plan.",
            InvalidSize: "A storage size cannot be read." => "Write a number and a unit, such as 256gb, 256Gi or 1.5tb.",
            InvalidParameter: "A parameter in `spec.parameters` does not exist, has an invalid value, or must not be set." => "Correct the parameter that the message names, or remove it.",
            InvalidRotationInterval: "`credentials.rotationInterval` cannot be read or is too short." => "Write a duration of at least 1h, such as 720h or 36h30m.",
            StorageCannotShrink: "The requested storage is less than the database has. The former value stays in force." => "Set at least the storage in `status.storageBytes`, or remove the field.",
            PoolNeedsDatabase: "The feature connectionPool is on and the feature database is off." => "Turn the database on, or the connection pool off.",
            NoImage: "No image is set: neither by the object, nor by the Plan, nor by the installation." => "Set the image that the message names.",
            NotAvailable: "The feature is not part of this release." => "Turn the feature off, or upgrade to a release that has it.",
            ForegroundDeletion: "The Customer was deleted with foreground propagation, which would delete its children in any order." => "Delete the Customer with background propagation, the default of kubectl.",
            SecretNamespaceNotAllowed: "`spec.adminSecretRef.namespace` is not the namespace of Ahoi." => "Move the Secret into the namespace that the message names.",
            ShardsInUse: "`spec.shards` was lowered, and the removed shard still has ConnectionPools." => "Raise `spec.shards` again, or remove the connection pools of that shard.",
        }
        "Another object has to change" {
            Refused: "The API server refused an object; the message has its error." => "Correct the field that the message names, or the policy or quota that refused it.",
            TooLarge: "The object is larger than the cluster stores, about 1.5 MiB." => "Make the spec smaller.",
            Unreadable: "The object has a value that this release cannot read, because a newer release wrote it." => "Upgrade the controller, or remove the field that the message names.",
            NameConflict: "An object with the name that is needed exists and belongs to another owner." => "Delete or rename that object.",
            ForeignNamespace: "An object would be created in another namespace than its owner." => "Report this as a bug.",
            ChangedRepeatedly: "Another client changes or deletes an owned object repeatedly." => "Find that client in the managed fields or the audit log, and stop it.",
            SecretNotFound: "A Secret that the spec names does not exist." => "Create the Secret with the keys that the message names.",
            SecretIncomplete: "A Secret has no usable value for a key that is needed." => "Add the key that the message names.",
            DatabaseNotFound: "The Database that the ConnectionPool refers to does not exist." => "Create it; for the pool of a Customer, turn the feature database on.",
            PgBouncerNotFound: "The PgBouncer that the ConnectionPool refers to does not exist." => "Create it, or set `features.connectionPool.pgBouncerRef` of the Plan to one that exists.",
            DatabaseServerNotFound: "The DatabaseServer that holds the database does not exist." => "Create the DatabaseServer again with the spec that it had.",
            NoMatchingDatabaseServer: "No DatabaseServer has the labels of `serverSelector` and is open for placement." => "Add a DatabaseServer with these labels, or correct the selector.",
            NoFreeCapacity: "Every DatabaseServer that matches, or every shard of the PgBouncer fleet, is full." => "Raise the limit that the message names, or add a server or a shard.",
        }
        "The PostgreSQL server has to change" {
            DatabaseServerUnreachable: "The controller cannot connect to PostgreSQL." => "Check that PostgreSQL runs and that `spec.host` and `spec.port` are correct.",
            DatabaseServerReadOnly: "PostgreSQL accepts no writes: it is a standby, read-only by configuration, or its disk is full." => "Correct what the message names, or point `spec.host` to the primary.",
            LoginRefused: "PostgreSQL refused the login of the admin role." => "Correct username and password in the admin Secret, or pg_hba.conf.",
            NotTrusted: "The TLS connection to PostgreSQL cannot be established as `spec.tls` demands." => "Correct `spec.tls`, the CA in its Secret, or the certificate of the server.",
            VersionTooOld: "The server is older than PostgreSQL 14." => "Upgrade PostgreSQL.",
            PrivilegeMissing: "The admin role has no right to do what is needed." => "Grant the role the privilege that the message names.",
            AdminDatabaseNotOwned: "The admin role does not own the database in `spec.adminDatabase`." => "Create a database that the role owns, and name it in `spec.adminDatabase`.",
            CannotPrepare: "PostgreSQL refused a statement that prepares the server." => "Grant the admin role what the message names, or execute the statement as a superuser.",
            OpenToPublic: "Every login can connect to the databases postgres and template1." => "Execute the statement in the message as the owner of the database.",
            DiskNearlyFull: "The disk of the DatabaseServer is at least 85 % full." => "Enlarge the disk, or remove data; see the message for what uses most.",
            TimedOut: "PostgreSQL was not restarted within `spec.maintenance.timeoutSeconds`, and clients continue." => "Set another value of `spec.maintenance.request` to try again, with a longer timeout if needed.",
            Undecided: "The server has databases of other clusters, and the spec does not say what they are to this one." => "Set `spec.adoptFromCluster` or `spec.sharedWithClusters`.",
            DatabaseNotOwned: "The database that the status names has another owner's marker." => "Find out who changed the comment of the database. Data is never overwritten.",
            DatabaseMissing: "The database does not exist on the server any more." => "Restore the database under the name in the message, or delete the object to start empty.",
            RetainedDataExists: "The server has retained data of an earlier object of the same name, which must not be adopted." => "Set `spec.adoptionPolicy` of the Customer to Automatic, or remove the retained database.",
            DataOfAnotherCluster: "The server has data of this namespace and name that belongs to another cluster." => "Set `spec.adoptFromCluster` or `spec.sharedWithClusters` of the DatabaseServer.",
            NotConverging: "A statement succeeded without effect, because another role granted the privilege or membership." => "Run the statement of the message as the role that it names.",
            ExtensionRefused: "The server refuses an extension in `spec.extensions`." => "Install the extension on the server, or remove it from the list.",
            NewLoginRefused: "The server refuses the next login of a rotation. The current credentials stay in use." => "Allow the login in pg_hba.conf and reload PostgreSQL.",
            PoolerLoginRefused: "The server refuses the new lookup login of pgbouncer. The current login stays in use." => "Allow the login in pg_hba.conf.",
            RoleInUse: "A role cannot be dropped, because it owns objects outside of its database." => "Drop these objects, or run `REASSIGN OWNED` in the database that the message names.",
            VerifiersFull: "The Secret with the SCRAM verifiers of the DatabaseServer is full." => "Grant SELECT on pg_authid to the admin role, in its admin database.",
        }
        "The storage of a database is used up" {
            StorageQuotaWarning: "The database uses at least 80 % of its storage." => "Raise the storage, or remove data.",
            StorageQuotaExceeded: "The database uses all of its storage, and writes are refused with SQLSTATE 53100." => "Raise the storage, or remove data with TRUNCATE, DROP TABLE, or DELETE and VACUUM FULL.",
            StorageQuotaBreached: "The database kept growing after its storage was used up, and its logins are closed for 10 minutes." => "Raise the storage, or stop the client that writes.",
        }
        "The PgBouncer fleet has to change" {
            RouteRefused: "A pgbouncer process refuses to load the route of the ConnectionPool; the message says why." => "Correct what the message names.",
            LoginFailed: "A test login through pgbouncer failed. The binding Secret keeps its former content." => "Correct what the message names. The test is repeated.",
            TlsMismatch: "The DatabaseServer demands more of TLS than the PgBouncer fleet gives, or the reverse." => "Set the field that the message names.",
            CertificateRefused: "The certificate of the PgBouncer fleet is missing, unusable, or does not cover a host name." => "Correct the Secret that `spec.tls.client.secretRef` names.",
        }
        "Workers or jobs have to change" {
            MigrationFailed: "The migration Job failed. The former workers keep running." => "Read the log of the Job, then correct image or command, or delete the Job to run it again.",
            JobRefused: "The API server refused a CronJob." => "Correct the job that the message names.",
            JobFailed: "The last run of a job failed or does not start." => "Read the log or the events of the Job that the message names.",
            Stuck: "Workers do not become ready; the message has the reason of the pods." => "Correct image, command, resources or readiness of the workers.",
            NotProgressing: "The rollout of the workers made no progress within its deadline." => "Describe the pods of the workers.",
        }
    }
}

reasons! {
    /// Why an event was recorded. A condition that becomes Stalled is recorded with its own [`Reason`].
    pub enum EventReason {
        "Customers" {
            Ready: "The object became ready again." => "Nothing to do.",
            Created: "A Customer became ready for the first time." => "Nothing to do.",
            FeatureEnabled: "A feature was turned on." => "Nothing to do.",
            FeatureDisabled: "A feature was turned off. Its data is kept." => "Nothing to do.",
            Suspended: "Workers and jobs were stopped, because `spec.runPolicy` is Suspended." => "Nothing to do.",
            Resumed: "Workers and jobs run again." => "Nothing to do.",
            PlanChanged: "Another Plan is in force." => "Nothing to do.",
            Offboarding: "The deletion of a Customer began; the message says what happens to its data." => "Nothing to do.",
            RetainedDataLeft: "A Customer was deleted with the policy Archive or Delete, and data that was retained earlier may stay on its server." => "Drop the data manually when it is no longer needed.",
            ForegroundDeletion: "A Customer was deleted with foreground propagation." => "Delete Customers with background propagation.",
        }
        "All kinds" {
            Repaired: "An owned object was deleted or modified by another client, and was restored." => "Find that client.",
            Unreadable: "The object has a value that this release cannot read." => "Upgrade the controller, or remove the field that the message names.",
        }
        "Databases" {
            DataAdopted: "A Database adopted data that an earlier object of the same name left." => "Check that this was intended.",
            CredentialsRotated: "The binding Secrets have a new login and password." => "Nothing to do. Clients that do not read the Secret again lose access when the former login is closed.",
            FormerLoginClosed: "The login before the last rotation was closed." => "Nothing to do.",
            LoginsDiffer: "The new login of a rotation lacks settings or rights of the former one, and the admin role must not change them." => "Change the login as an administrator of PostgreSQL.",
            PasswordReplaced: "The binding Secret was lost, and the login got a new password." => "Find out which client deleted the Secret.",
            WithinStorageQuota: "The database uses less than 80 % of its storage again." => "Nothing to do.",
            StorageQuotaWarning: "The database uses at least 80 % of its storage." => "Raise the storage, or remove data.",
            StorageQuotaExceeded: "The storage is used up, and writes are refused." => "Raise the storage, or remove data.",
            StorageQuotaBreached: "The database kept growing, and its logins are closed for 10 minutes." => "Raise the storage, or stop the client that writes.",
            TemporaryFilesRemoved: "Sessions were ended because their temporary files exceeded the limit." => "Change the query, or set temp_file_limit in `spec.parameters`.",
            RemovalRefused: "PostgreSQL refused to remove a database; the message has its error." => "Correct what the message names.",
            RemovalPostponed: "A database is removed when its DatabaseServer can be used again." => "Repair the DatabaseServer.",
            DatabaseServerNotFound: "A Database was deleted whose DatabaseServer does not exist. Its data stays on the server." => "Drop the data manually when it is no longer needed.",
        }
        "DatabaseServers" {
            PendingRemovalDone: "A postponed removal of a database finished." => "Nothing to do.",
            RemovalResumed: "A removal that had begun and not finished is continued." => "Nothing to do.",
            OrphanClosed: "A database whose object does not exist any more was closed to all logins." => "Drop it manually, or create the object again to adopt it.",
            ManyOrphans: "So many databases have no object that none of them is closed." => "Check that the controller watches the right cluster.",
            DataOfOtherClusters: "Databases of another cluster were found." => "Set `spec.adoptFromCluster` or `spec.sharedWithClusters`.",
            DiskNearlyFull: "The disk is at least 85 % full." => "Enlarge the disk, or remove data.",
            Restarted: "PostgreSQL was restarted during a maintenance request, and clients continue." => "Nothing to do.",
            MaintenanceTimedOut: "A maintenance request ended without a restart, and clients continue." => "Set another request.",
            PoolerLoginsLeft: "A DatabaseServer was deleted, and the lookup logins of pgbouncer stay on the server." => "Drop the roles that the message names.",
            RemovedLoginDropped: "The lookup login of a DatabaseServer that was deleted earlier was dropped." => "Nothing to do.",
        }
        "PgBouncers and ConnectionPools" {
            LoginFlood: "A client sends more failing logins than the limit allows, or stopped doing so." => "Find the client by the address or database in the message.",
            RemovedWithoutProof: "A route was removed without confirmation of every process." => "Check the pods of the PgBouncer that the message names.",
        }
    }
}

/// Reasons of Kubernetes that conditions pass through as text, with cause and remedy.
pub const KUBERNETES_REASONS: &[(&str, &str, &str)] = &[
    ("Unschedulable", "No node can take the pod.", "Lower its requests, or add a node."),
    ("ImagePullBackOff", "The image of the pod cannot be pulled.", "Correct the image, or the access to its registry."),
    ("CreateContainerConfigError", "A Secret or ConfigMap of the pod is missing.", "Create what the message names."),
    ("CrashLoopBackOff", "The container ends again and again.", "Read its log (`kubectl logs --previous`)."),
    ("ProgressDeadlineExceeded", "The Deployment made no progress in time.", "Describe the pods of the workers."),
    (
        "FailedCreate",
        "The pods cannot be created: a quota or an admission policy refuses them.",
        "Correct what the message names.",
    ),
];

/// The page `docs/reference/reasons.md`.
#[must_use]
pub fn reasons_page() -> String {
    let mut page = String::from(
        "<!-- Generated from shared/api/src/reasons.rs by `make crds`. Do not edit. -->\n\n# Reasons\n\nWhat the `reason` of a condition or an event \
         means, and what to do about it. The message next to it names the object and the value.\n\n## Conditions\n",
    );
    let row = |reason: &str, cause: &str, remedy: &str| format!("| `{reason}` | {cause} | {remedy} |\n");
    let table = |heading: &str| format!("\n### {heading}\n\n| Reason | Cause | Remedy |\n|---|---|---|\n");
    for (heading, reasons) in Reason::GROUPS {
        page += &table(heading);
        page.extend(reasons.iter().map(|reason| row(reason.as_str(), reason.cause(), reason.remedy())));
    }
    page += &table("Reasons of Kubernetes");
    page.extend(KUBERNETES_REASONS.iter().map(|(reason, cause, remedy)| row(reason, cause, remedy)));
    page += "\nOther reasons of pods and Deployments are passed through unchanged; see the Kubernetes documentation.\n";
    page += "\n## Events\n\nA condition that becomes Stalled is also recorded as an event with the reason of the condition.\n";
    for (heading, reasons) in EventReason::GROUPS {
        page += &table(heading);
        page.extend(reasons.iter().map(|reason| row(reason.as_str(), reason.cause(), reason.remedy())));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn texts_are_unique_and_parse_to_their_variant() {
        let texts: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        for reason in EventReason::ALL {
            assert_eq!(EventReason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("ImagePullBackOff"), None);
    }

    #[test]
    fn each_reason_has_a_cause_and_a_remedy() {
        let all = Reason::ALL.iter().map(|reason| (reason.as_str(), reason.cause(), reason.remedy()));
        let events = EventReason::ALL.iter().map(|reason| (reason.as_str(), reason.cause(), reason.remedy()));
        for (reason, cause, remedy) in all.chain(events).chain(KUBERNETES_REASONS.iter().copied()) {
            for text in [cause, remedy] {
                assert!(text.ends_with('.') && text.len() > 4, "{reason}: {text}");
                assert!(!text.contains('|'), "{reason} would break the table: {text}");
            }
        }
    }
}
