//! The ServiceAccounts of the suite: what RBAC gives them, and requests in their name.

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
    /// Plural, and a subresource after a slash.
    pub resource: String,
    /// Verb of RBAC.
    pub verb: String,
    /// Names that the right is limited to; empty for all.
    pub names: Vec<String>,
}

impl Right {
    /// The resource with its group, as Kubernetes writes it: `jobs.batch`.
    pub fn resource(&self) -> String {
        let plural = self.resource.split('/').next().unwrap_or_default();
        if self.group.is_empty() { plural.to_owned() } else { format!("{plural}.{}", self.group) }
    }

    /// The subresource, if it is one's.
    pub fn subresource(&self) -> Option<&str> {
        self.resource.split_once('/').map(|(_, subresource)| subresource)
    }
}

impl Cluster {
    /// A client that acts as the user, a member of the groups.
    pub async fn acting_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = Config::infer().await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Ok(Client::try_from(config)?)
    }

    /// A client that acts as a ServiceAccount of the suite.
    pub async fn as_account(&self, account: &str) -> Result<Client> {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:ahoi-system", "system:authenticated"];
        self.acting_as(&format!("system:serviceaccount:{SYSTEM}:{account}"), &groups).await
    }

    /// The names of the suite's ServiceAccounts; the one that Kubernetes makes has no rights.
    pub async fn accounts(&self) -> Result<Vec<String>> {
        let accounts = self.of::<ServiceAccount>(SYSTEM).list(&ListParams::default()).await?;
        Ok(accounts.iter().map(|account| account.name_any()).filter(|name| name != "default").collect())
    }

    /// What the ClusterRoles give the account in every namespace, one entry for each resource and verb.
    pub async fn rights(&self, account: &str) -> Result<Vec<Right>> {
        let mut rights = Vec::new();
        for binding in self.all::<ClusterRoleBinding>().list(&ListParams::default()).await? {
            let ours = |s: &k8s_openapi::api::rbac::v1::Subject| {
                s.kind == "ServiceAccount" && s.name == account && s.namespace.as_deref() == Some(SYSTEM)
            };
            if binding.subjects.iter().flatten().any(ours) {
                let role = self.all::<ClusterRole>().get(&binding.role_ref.name).await?;
                ensure!(role.aggregation_rule.is_none(), "{} is aggregated: it has what others add", role.name_any());
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
    ensure!(words.clone().all(|word| !word.contains('*')), "a wildcard for {account}: name what it needs");
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
