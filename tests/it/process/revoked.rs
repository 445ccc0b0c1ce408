//! Credentials that a command revokes while they have sockets in several processes.

use std::net::SocketAddr;

use pretty_assertions::assert_eq;

use super::*;
use crate::support::Cluster;

const AUTH: [(&str, &str); 2] = [
    ("AUTH", "required"),
    (
        "AUTH_JWT_SECRET",
        "the shared secret of this test, of 32 bytes or more",
    ),
];

/// The output of a command on the cluster's database, which succeeds.
async fn printed(cluster: &Cluster, arguments: &[&str]) -> String {
    let variables: Vec<_> = cluster
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let output = run(cluster.folder.path(), arguments, &variables).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_end().to_owned()
}

async fn token(cluster: &Cluster, user: &str) -> String {
    printed(cluster, &["token", "--user", user, "--scope", "odds:read"]).await
}

/// A socket of this caller on each process, once the process knows the credential.
async fn sockets(addresses: [SocketAddr; 2], credential: &str) -> Vec<OddsClient> {
    let mut clients = Vec::new();
    for address in addresses {
        let connect = || async { OddsClient::connect_as(address, credential).await.ok() };
        clients.push(until("the credential is accepted", connect).await);
    }
    clients
}

async fn are_open(clients: &mut [OddsClient]) {
    for client in clients {
        client.send(r#"{"type":"ping"}"#).await;
        client.next_of("pong").await;
    }
}

/// Every socket is closed as revoked, and its process accepts the credential no more.
async fn are_revoked(clients: Vec<OddsClient>, addresses: [SocketAddr; 2], credential: &str) {
    for (mut client, address) in clients.into_iter().zip(addresses) {
        assert_eq!(client.close_code().await, 3_500);
        let refused = OddsClient::connect_as(address, credential).await;
        assert_eq!(refused.err(), Some(401));
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn revoked_callers_lose_sockets_everywhere() {
    let cluster = Cluster::new(1, &AUTH).await;
    let _processor = cluster.start("processor").await;
    let processes = [cluster.start("odds").await, cluster.start("odds").await];
    let addresses = processes.each_ref().map(ServerProcess::odds);
    let create = ["key", "create", "--scope", "odds:read", "--note", "screens"];
    let key = printed(&cluster, &create).await;
    let (revoked, other) = (token(&cluster, "u1").await, token(&cluster, "u2").await);
    let of_key = sockets(addresses, &key).await;
    let mut of_user = sockets(addresses, &revoked).await;
    let mut of_other = sockets(addresses, &other).await;

    printed(&cluster, &["key", "revoke", "1"]).await;
    are_revoked(of_key, addresses, &key).await;
    are_open(&mut of_user).await;
    printed(&cluster, &["user", "revoke", "u1"]).await;
    are_revoked(of_user, addresses, &revoked).await;
    are_open(&mut of_other).await;
}
