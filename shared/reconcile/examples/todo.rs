//! A todo list as a kind, with its open items in a ConfigMap of the same name.
//!
//! ```sh
//! cargo run --example todo -- crd | kubectl apply -f -
//! cargo run --example todo -- --leader-elect=false
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use ahoi_reconcile::conditions::{Condition, set_verdict};
use ahoi_reconcile::{Controller, Error, Owned, Platform, Progress, Reconciler, Runnable, Verdict, conditioned};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::ObjectMeta;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug)]
#[kube(group = "examples.internal.example.com", version = "v1", kind = "Todo", namespaced, status = "TodoStatus")]
#[kube(printcolumn(name = "OPEN", type_ = "integer", json_path = ".status.open"))]
struct TodoSpec {
    /// The items, open and done.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 100))]
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize, Clone, Debug, JsonSchema)]
struct Item {
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    name: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    done: bool,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TodoStatus {
    observed_generation: Option<i64>,
    open: i32,
    #[serde(default)]
    conditions: Vec<Condition>,
}

conditioned!(Todo: TodoStatus);

struct TodoController {
    lists: Owned<ConfigMap>,
}

impl Reconciler for TodoController {
    type Kind = Todo;
    const NAME: &'static str = "todo";

    async fn reconcile(&self, todo: &Todo) -> Result<Progress<TodoStatus>, Error> {
        let desired = desired(todo);
        let open = desired.iter().filter_map(|list| list.data.as_ref()).map(BTreeMap::len).sum::<usize>();
        self.lists.prune(todo, |list| desired.iter().any(|it| it.metadata.name == list.metadata.name)).await?;
        if let Some(list) = desired {
            self.lists.apply(todo, list).await?;
        }
        let mut status = todo.status.clone().unwrap_or_default();
        status.open = i32::try_from(open).unwrap_or(i32::MAX);
        set_verdict(&mut status.conditions, todo.metadata.generation, Verdict::ready(format!("{open} to do")));
        Ok(Progress::new(status).requeue_in(Duration::from_secs(60)))
    }
}

/// The ConfigMap, if an item is open.
fn desired(todo: &Todo) -> Option<ConfigMap> {
    let open = todo.spec.items.iter().filter(|item| !item.done);
    let data: BTreeMap<String, String> = open.map(|item| (item.name.clone(), item.text.clone())).collect();
    let metadata = ObjectMeta { name: todo.metadata.name.clone(), ..ObjectMeta::default() };
    (!data.is_empty()).then(|| ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("crd") {
        println!("{}", serde_json::to_string_pretty(&Todo::crd())?);
        return Ok(());
    }
    ahoi_reconcile::run("todo", async |platform: Platform| -> anyhow::Result<Vec<Runnable>> {
        let todos = platform.watch_all::<Todo>();
        let lists = platform.watch_all::<ConfigMap>();
        let lists = Owned::new(&platform, &lists);
        Ok(vec![Controller::new(&platform, &todos).owns(&lists).run(TodoController { lists })])
    })
    .await
}
