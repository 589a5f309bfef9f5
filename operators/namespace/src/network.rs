//! The NetworkPolicies of a customer's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ahoi_api::{CustomerNamespace, DatabaseServer, NetworkIsolation};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::guard_rail::meta;

/// Label that Kubernetes sets on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Label on the pods of a PgBouncer fleet. Its value is the name of the fleet.
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label on the pods of all PgBouncer fleets.
const FLEET_LABEL: &str = "internal.example.com/pgbouncer";
/// Port of PgBouncer fleets.
const FLEET_PORT: i32 = 6432;

/// What customers need outside of their namespaces.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// The namespace of the PgBouncer fleets.
    pub fleets: String,
    /// Address ranges of DNS servers other than the pods `kube-dns`.
    pub dns: Vec<String>,
    /// Address ranges of PostgreSQL servers whose host name is outside of the cluster.
    pub databases: Vec<String>,
}

/// The locations of the DatabaseServers, by port. Customers with a database may connect to all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(BTreeMap<i32, BTreeSet<Location>>);

/// The location of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Location {
    /// Behind a Service in this namespace.
    Namespace(String),
    /// At this address or in this range.
    Range(String),
}

impl Servers {
    /// The locations of these servers. Policies cannot contain host names: a name outside of the cluster stands for all `ranges`.
    pub fn of<'a>(servers: impl IntoIterator<Item = &'a DatabaseServer>, ranges: &[String]) -> Self {
        let mut locations: BTreeMap<i32, BTreeSet<Location>> = BTreeMap::new();
        for server in servers {
            let found = match location(&server.spec.host) {
                Some(location) => vec![location],
                None => ranges.iter().cloned().map(Location::Range).collect(),
            };
            if !found.is_empty() {
                locations.entry(server.spec.port).or_default().extend(found);
            }
        }
        Servers(locations)
    }

    fn rules(&self) -> impl Iterator<Item = NetworkPolicyEgressRule> {
        self.0.iter().map(|(number, locations)| {
            let peers = locations.iter().map(|place| match place {
                Location::Namespace(name) => in_namespace(name, LabelSelector::default()),
                Location::Range(range) => block(range),
            });
            NetworkPolicyEgressRule { to: Some(peers.collect()), ports: Some(vec![port("TCP", *number)]) }
        })
    }
}

/// The namespace of a Service, or an address. `None`: a host name outside of the cluster.
fn location(host: &str) -> Option<Location> {
    if let Ok(address) = host.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(Location::Range(format!("{address}/{bits}")));
    }
    let mut parts = host.split('.').skip(1);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some("svc")) => Some(Location::Namespace(namespace.to_owned())),
        _ => None,
    }
}

/// The policies of an isolated namespace. An open one has none.
pub fn policies(owner: &CustomerNamespace, endpoints: &Endpoints, servers: &Servers) -> Vec<NetworkPolicy> {
    match owner.spec.guardrails.network {
        NetworkIsolation::Isolated => {
            vec![policy(owner, "default-deny", None, None), allow_platform(owner, endpoints, servers)]
        }
        NetworkIsolation::Open => Vec::new(),
    }
}

/// Allows the tenant's own pods, DNS, the PgBouncer fleets with a pool of it, and PostgreSQL if it has a database.
fn allow_platform(owner: &CustomerNamespace, endpoints: &Endpoints, servers: &Servers) -> NetworkPolicy {
    let own = || NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let mut dns = vec![in_namespace("kube-system", labelled("k8s-app", "kube-dns"))];
    dns.extend(endpoints.dns.iter().map(|range| block(range)));
    let mut egress = vec![
        NetworkPolicyEgressRule { to: Some(vec![own()]), ports: None },
        NetworkPolicyEgressRule { to: Some(dns), ports: Some(vec![port("UDP", 53), port("TCP", 53)]) },
    ];
    // Kubernetes refuses a selector without values.
    if !owner.spec.fleets.is_empty() {
        egress.push(NetworkPolicyEgressRule {
            to: Some(vec![in_namespace(&endpoints.fleets, pods_of(&owner.spec.fleets))]),
            ports: Some(vec![port("TCP", FLEET_PORT)]),
        });
    }
    if owner.spec.direct_database {
        egress.extend(servers.rules());
    }
    let ingress = vec![NetworkPolicyIngressRule { from: Some(vec![own()]), ports: None }];
    policy(owner, "allow-platform", Some(ingress), Some(egress))
}

fn policy(
    owner: &CustomerNamespace,
    name: &str,
    ingress: Option<Vec<NetworkPolicyIngressRule>>,
    egress: Option<Vec<NetworkPolicyEgressRule>>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: meta(owner, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress,
            egress,
        }),
    }
}

fn in_namespace(name: &str, pods: LabelSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(labelled(NAMESPACE_NAME, name)),
        pod_selector: (pods != LabelSelector::default()).then_some(pods),
        ip_block: None,
    }
}

fn block(range: &str) -> NetworkPolicyPeer {
    let block = IPBlock { cidr: range.to_owned(), except: None };
    NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() }
}

fn port(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(IntOrString::Int(port)), end_port: None }
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

/// The pods of these PgBouncer fleets.
fn pods_of(fleets: &[String]) -> LabelSelector {
    let requirement = |key: &str, operator: &str, values: Option<Vec<String>>| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    };
    let expressions =
        vec![requirement(FLEET_LABEL, "Exists", None), requirement(INSTANCE_LABEL, "In", Some(fleets.to_vec()))];
    LabelSelector { match_labels: None, match_expressions: Some(expressions) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(hosts: &[(&str, i32)], ranges: &[&str]) -> Servers {
        let server = |(host, port): &(&str, i32)| -> DatabaseServer {
            let spec =
                serde_json::json!({"host": host, "port": port, "adminSecretRef": {"namespace": "a", "name": "b"}});
            DatabaseServer::new("any", serde_json::from_value(spec).unwrap())
        };
        let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
        Servers::of(hosts.iter().map(server).collect::<Vec<_>>().iter(), &ranges)
    }

    #[test]
    fn the_location_of_a_server_follows_from_its_host() {
        let namespace = |name: &str| Some(Location::Namespace(name.into()));
        assert_eq!(location("pg.databases.svc"), namespace("databases"));
        assert_eq!(location("pg-rw.databases.svc.cluster.local"), namespace("databases"));
        assert_eq!(location("10.1.2.3"), Some(Location::Range("10.1.2.3/32".into())));
        assert_eq!(location("fd00::1"), Some(Location::Range("fd00::1/128".into())));
        assert_eq!(location("pg.example.com"), None);
        assert_eq!(location("pg"), None);
    }

    #[test]
    fn servers_with_the_same_port_share_a_rule() {
        let found = servers(&[("a.db.svc", 5432), ("b.db.svc", 5432), ("10.1.2.3", 5432), ("c.db.svc", 5433)], &[]);
        let rules: Vec<_> = found.rules().collect();
        assert_eq!(rules.iter().map(|rule| rule.to.as_ref().unwrap().len()).collect::<Vec<_>>(), [2, 1]);
    }

    /// An empty list of peers would allow every address.
    #[test]
    fn a_server_with_unknown_addresses_adds_no_rule() {
        assert_eq!(servers(&[("pg.example.com", 5432)], &[]), Servers::default());
        let found = servers(&[("pg.example.com", 5432), ("a.db.svc", 5433)], &["192.0.2.0/24"]);
        let rules: Vec<_> = found.rules().collect();
        assert_eq!(rules[0].to.as_ref().unwrap(), &[block("192.0.2.0/24")]);
        assert_eq!(rules.len(), 2);
    }
}
