use std::sync::Arc;

use kube_api_server::{ApiServer, Config, UserInfo};
use mvcc_store::embedded::EmbeddedStore;

use super::*;

async fn api() -> Client {
    let config = Config::in_process(EmbeddedStore::in_memory());
    let api: Arc<ApiServer> = ApiServer::new(config).await.unwrap();
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    Client::new(api.local(user), "default")
}

fn server(client: &Client, address: &str) -> LiveServers {
    let identity = ServerIdentity {
        host_name: "host".to_owned(),
        address: address.parse().unwrap(),
    };
    LiveServers::new(client.clone(), &identity)
}

/// The addresses in Endpoints and slices, which are the same.
async fn published(client: &Client) -> Vec<String> {
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), NAMESPACE);
    let endpoints = endpoints.get(SERVICE).await.unwrap();
    let mut addresses = Vec::new();
    for subset in endpoints.subsets.into_iter().flatten() {
        let port = subset.ports.unwrap()[0].port;
        let ips = subset.addresses.unwrap().into_iter();
        addresses.extend(ips.map(|address| format!("{}:{port}", address.ip)));
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let mut sliced = Vec::new();
    for slice in slices.list(&ListParams::default()).await.unwrap().items {
        let port = slice.ports.unwrap()[0].port.unwrap();
        let ips = slice.endpoints.into_iter().flatten();
        sliced.extend(ips.map(|endpoint| format!("{}:{port}", endpoint.addresses[0])));
    }
    sliced.sort();
    addresses.sort();
    assert_eq!(addresses, sliced);
    addresses
}

#[tokio::test]
async fn endpoints_name_the_servers_that_run() {
    let client = api().await;
    let mut one = server(&client, "192.0.2.1:6443");
    let mut two = server(&client, "192.0.2.2:6443");
    let mut second = server(&client, "192.0.2.1:7443");
    one.round().await.unwrap();
    assert_eq!(published(&client).await, ["192.0.2.1:6443"]);
    two.round().await.unwrap();
    second.round().await.unwrap();
    one.round().await.unwrap();
    let all = ["192.0.2.1:6443", "192.0.2.1:7443", "192.0.2.2:6443"];
    assert_eq!(published(&client).await, all);
    assert_eq!(addresses(&client).await.unwrap().len(), 3);
    second.leave().await.unwrap();
    assert_eq!(
        published(&client).await,
        ["192.0.2.1:6443", "192.0.2.2:6443"]
    );
    two.round().await.unwrap();
    two.leave().await.unwrap();
    assert_eq!(published(&client).await, ["192.0.2.1:6443"]);
    one.leave().await.unwrap();
    // The address of the last server stays in the endpoints, because without servers no client reads them.
    assert_eq!(published(&client).await, ["192.0.2.1:6443"]);
}

#[tokio::test]
async fn a_dead_server_is_taken_out() {
    let client = api().await;
    let mut dead = server(&client, "192.0.2.9:6443");
    dead.round().await.unwrap();
    let patch = json!({"spec": {"leaseDurationSeconds": 1}});
    let patch = Patch::Merge(patch);
    let (leases_of_all, params) = (leases(&client), PatchParams::default());
    let patched = leases_of_all.patch(&dead.name, &params, &patch);
    patched.await.unwrap();
    let mut one = server(&client, "192.0.2.1:6443");
    one.round().await.unwrap();
    assert_eq!(
        published(&client).await.len(),
        2,
        "nobody is dead at first sight"
    );
    while published(&client).await != ["192.0.2.1:6443"] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.round().await.unwrap();
    }
    assert_eq!(leases(&client).get_opt(&dead.name).await.unwrap(), None);
    // The server was only paused.
    dead.round().await.unwrap();
    assert_eq!(published(&client).await.len(), 2);
}

#[test]
fn a_lease_is_named_as_that_of_kube_apiserver() {
    let named = |host: &str, address: &str| {
        let identity = ServerIdentity {
            host_name: host.to_owned(),
            address: address.parse().unwrap(),
        };
        identity.lease_name()
    };
    let name = named("a", "192.0.2.1:6443");
    assert_eq!(name.len(), "apiserver-".len() + 26);
    assert_eq!(name, named("a", "192.0.2.1:6443"));
    assert_ne!(name, named("a", "192.0.2.1:7443"));
    assert_ne!(name, named("b", "192.0.2.1:6443"));
}
