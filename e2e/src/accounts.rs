//! The ServiceAccounts of the controllers: their RBAC rights, and clients that impersonate them.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule};
use kube::api::ListParams;
use kube::{Client, Config, ResourceExt as _};

use crate::cluster::Cluster;
use crate::system::SYSTEM;

/// One right of a ServiceAccount in every namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Name of the ServiceAccount.
    pub account: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name, followed by a slash and the subresource, if any.
    pub resource: String,
    /// RBAC verb.
    pub verb: String,
    /// Names of the objects that the right is limited to. Empty: all objects.
    pub names: Vec<String>,
}

impl Right {
    /// Plural name with its API group, for example `jobs.batch`.
    pub fn resource(&self) -> String {
        let plural = self.resource.split('/').next().unwrap_or_default();
        if self.group.is_empty() { plural.to_owned() } else { format!("{plural}.{}", self.group) }
    }

    /// Subresource, if any.
    pub fn subresource(&self) -> Option<&str> {
        self.resource.split_once('/').map(|(_, subresource)| subresource)
    }
}

impl Cluster {
    /// Returns a client that impersonates the user and the groups.
    pub async fn acting_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = Config::infer().await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Ok(Client::try_from(config)?)
    }

    /// Returns a client that impersonates a ServiceAccount of the controllers.
    pub async fn as_account(&self, account: &str) -> Result<Client> {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:ahoi-system", "system:authenticated"];
        self.acting_as(&format!("system:serviceaccount:{SYSTEM}:{account}"), &groups).await
    }

    /// Returns the names of the ServiceAccounts of the controllers, without the `default` account, which has no rights.
    pub async fn accounts(&self) -> Result<Vec<String>> {
        let accounts = self.of::<ServiceAccount>(SYSTEM).list(&ListParams::default()).await?;
        Ok(accounts.iter().map(|account| account.name_any()).filter(|name| name != "default").collect())
    }

    /// Returns the cluster-wide rights of the account, one entry for each resource and verb.
    pub async fn rights(&self, account: &str) -> Result<Vec<Right>> {
        let mut rights = Vec::new();
        for binding in self.all::<ClusterRoleBinding>().list(&ListParams::default()).await? {
            let ours = |s: &k8s_openapi::api::rbac::v1::Subject| {
                s.kind == "ServiceAccount" && s.name == account && s.namespace.as_deref() == Some(SYSTEM)
            };
            if binding.subjects.iter().flatten().any(ours) {
                let role = self.all::<ClusterRole>().get(&binding.role_ref.name).await?;
                ensure!(
                    role.aggregation_rule.is_none(),
                    "ClusterRole {} is aggregated: its rules depend on other ClusterRoles",
                    role.name_any()
                );
                for rule in role.rules.unwrap_or_default() {
                    rights.extend(one_by_one(account, rule).with_context(|| binding.role_ref.name.clone())?);
                }
            }
        }
        rights.sort();
        Ok(rights)
    }
}

fn one_by_one(account: &str, rule: PolicyRule) -> Result<Vec<Right>> {
    let (groups, resources) = (rule.api_groups.unwrap_or_default(), rule.resources.unwrap_or_default());
    let words = groups.iter().chain(&resources).chain(&rule.verbs);
    ensure!(
        words.clone().all(|word| !word.contains('*')),
        "{account} has a wildcard: list each group, resource and verb"
    );
    let mut rights = Vec::new();
    for group in &groups {
        for resource in &resources {
            for verb in &rule.verbs {
                rights.push(Right {
                    account: account.to_owned(),
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    names: rule.resource_names.clone().unwrap_or_default(),
                });
            }
        }
    }
    Ok(rights)
}
