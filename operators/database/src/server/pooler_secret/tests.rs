use ahoi_reconcile::testing::ApiServer;

use super::*;
use crate::testing::{context, secret};

const PATH: &str = "/api/v1/namespaces/ahoi-system/secrets";

fn names() -> [String; 2] {
    ahoi_api::logins("ahoi_pooler_1")
}

fn login(name: &str, password: &str) -> PoolerLogin {
    PoolerLogin { name: name.into(), password: password.into() }
}

#[tokio::test]
async fn a_published_login_is_found_before_the_cache_has_it() {
    let api = ApiServer::new();
    let empty = context(&api, vec![], vec![], vec![]);
    assert_eq!(published(&empty, "pg-1", &names()).await.unwrap(), None);
    for (server, login) in [("pg-1", login("ahoi_pooler_1_a", "x")), ("pg-2", login("ahoi_pooler_1_b", "y"))] {
        publish(&empty, server, &login).await.unwrap();
        assert_eq!(published(&empty, server, &names()).await.unwrap(), Some(login));
    }
    let patch = format!("PATCH {PATH}/{POOLER_AUTH_SECRET}");
    assert_eq!(api.take_writes(), [patch.clone(), format!("POST {PATH}"), patch]);
    assert_eq!(published(&empty, "pg-1", &ahoi_api::logins("ahoi_pooler_2")).await.unwrap(), None, "of another server");
}

#[tokio::test]
async fn the_login_of_a_deleted_server_is_removed_if_it_is_unused() {
    let (api, database) = (ApiServer::new(), |server: &str| -> Database {
        let text = format!(
            "{{apiVersion: internal.example.com/v1, kind: Database, metadata: {{name: a, namespace: n}}, \
             spec: {{storage: 1gb}}, status: {{server: {server}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    });
    let entries = [("pg-1", "a:x"), ("named", "b:x"), ("deleted", "c:x")];
    let known = api.put(&secret(POOLER_AUTH_SECRET, &entries));
    let servers = vec![crate::testing::server("pg-1")];
    let context = context(&api, servers, vec![database("named")], vec![known.clone()]);
    api.take_requests();
    prune(&context).await.unwrap();
    let left = api.get(&known).unwrap().data.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), ["named", "pg-1"]);
}

#[tokio::test]
async fn no_request_is_made_at_rest() {
    let api = ApiServer::new();
    let known = secret(POOLER_AUTH_SECRET, &[("pg-1", "ahoi_pooler_1_a:known")]);
    let context = context(&api, vec![], vec![], vec![known]);
    assert_eq!(published(&context, "pg-1", &names()).await.unwrap(), Some(login("ahoi_pooler_1_a", "known")));
    assert_eq!(api.take_requests(), []);
}
