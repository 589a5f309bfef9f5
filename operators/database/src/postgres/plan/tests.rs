mod freeze;
mod opening;
mod properties;
mod removal;
mod rotation;

use super::*;
use crate::postgres::ownership::Cluster;

const UID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const OTHER: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const VERIFIER: &str = "SCRAM-SHA-256$4096:salt$stored:server";

fn identity(uid: &str, name: &str) -> Identity {
    let cluster = Cluster::new("cluster");
    Identity {
        object: cluster.object("customer-acme", name),
        cluster: cluster.id,
        uid: uid.into(),
        namespace: "customer-acme".into(),
        name: name.into(),
    }
}

fn desired() -> Desired {
    Desired {
        names: Names::from_uid(UID),
        identity: identity(UID, "acme"),
        provisioned: false,
        verifier: VERIFIER.into(),
        other: OtherLogin::Closed,
        connection_limit: 30,
        parameters: [("statement_timeout".to_owned(), "30s".to_owned())].into(),
        extensions: ["pgcrypto".to_owned()].into(),
        access: Access::Write,
        temporary_kilobytes: 65_536,
    }
}

fn empty(version: i32) -> Observed {
    Observed { version, operator: "postgres".into(), limits_temporary_files: true, ..Observed::default() }
}

fn after(mut observed: Observed, steps: &[Step]) -> Observed {
    steps.iter().for_each(|step| step.apply(&mut observed));
    observed
}

fn provisioned(version: i32) -> Observed {
    let empty = empty(version);
    let steps = open(&desired(), &empty).unwrap();
    after(empty, &steps)
}

fn sql(steps: &[Step], version: i32) -> String {
    steps.iter().map(|step| format!("{:?}: {}\n", step.scope(), step.sql(version))).collect()
}

fn topics(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|step| step.topic().as_str()).collect()
}
