//! A volume with a replica, in pools of two nodes.

use controller_planners::volume_replication::{CommonSnapshot, VolumeCopies};

use super::snapshots::{names, with_volume};
use super::*;

/// A step of an epoch.
async fn step(node: &Node, epoch: &str, name: &str, at: &[(&str, &str)]) -> StepResult<Bytes> {
    send(node, epoch, name, at, Bytes::new()).await
}

async fn send(
    node: &Node,
    epoch: &str,
    name: &str,
    at: &[(&str, &str)],
    body: Bytes,
) -> StepResult<Bytes> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let step = MoveStep {
        volume: VOLUME.to_owned(),
        id: epoch.to_owned(),
        step: format!("replica-{name}"),
        parameters: at.iter().map(pair).collect(),
        body,
    };
    node.moves.carry_out(step).await
}

/// The stream of a copy.
async fn read_copy(from: &Node, epoch: &str, copy: &[(&str, &str)]) -> StepResult<Vec<u8>> {
    let mut stream = Vec::new();
    loop {
        let offset = stream.len().to_string();
        let more = [("attempt", copy[0].1), ("offset", offset.as_str())];
        let at = [copy, &more].concat();
        let part = step(from, epoch, "read", &at).await?;
        if part.is_empty() {
            return Ok(stream);
        }
        stream.extend_from_slice(&part);
    }
}

async fn write_copy(
    to: &Node,
    epoch: &str,
    copy: &[(&str, &str)],
    stream: &[u8],
) -> StepResult<CopyReceipt> {
    let mut offset = 0;
    loop {
        let part = Bytes::copy_from_slice(&stream[offset..stream.len().min(offset + 70_000)]);
        let (text, last) = (offset.to_string(), part.is_empty().to_string());
        let more = [
            ("attempt", copy[0].1),
            ("offset", text.as_str()),
            ("bytes", to.bytes()),
            ("last", last.as_str()),
        ];
        offset += part.len();
        let at = [copy, &more].concat();
        let response = send(to, epoch, "receive", &at, part).await?;
        match serde_json::from_slice(&response).unwrap() {
            CopyReceipt::More => {}
            receipt => return Ok(receipt),
        }
    }
}

async fn copied(
    from: &Node,
    to: &Node,
    epoch: &str,
    copy: &[(&str, &str)],
) -> StepResult<CopyReceipt> {
    let stream = read_copy(from, epoch, copy).await?;
    write_copy(to, epoch, copy, &stream).await
}

async fn demote(node: &Node, epoch: &str, common: &CommonSnapshot) -> StepResult<Bytes> {
    let time = common.time.to_string();
    let at = [
        ("common", time.as_str()),
        ("here", common.here.as_str()),
        ("there", common.there.as_str()),
    ];
    step(node, epoch, "demote", &at).await
}

async fn holdings(node: &Node) -> VolumeCopies {
    let response = step(node, "1", "inspect", &[]).await.unwrap();
    serde_json::from_slice(&response).unwrap()
}

fn script(volume: &Path) -> String {
    fs::read_to_string(volume.join("script")).unwrap()
}

// docs/storage.md
#[tokio::test]
async fn a_copy_becomes_the_volume_and_the_former_primary_keeps_its_state() {
    let (first_node, second_node) = with_volume().await;
    step(&second_node, "1", "demote", &[]).await.unwrap();
    fs::write(first_node.volume().join("script"), "first").unwrap();
    copied(&first_node, &second_node, "1", &[("copy", "10")])
        .await
        .unwrap();
    fs::write(first_node.volume().join("script"), "second").unwrap();
    let next = [("copy", "20"), ("base", "10")];
    let difference = read_copy(&first_node, "1", &next).await.unwrap();
    assert!(difference.len() < 1 << 20, "{}", difference.len());
    // An incomplete stream is no copy, and is received again.
    let half = &difference[..difference.len() / 2];
    assert!(write_copy(&second_node, "1", &next, half).await.is_err());
    assert_eq!(holdings(&second_node).await.copies, [10].into());
    let again = [("copy", "20"), ("base", "10")];
    write_copy(&second_node, "1", &again, &difference)
        .await
        .unwrap();
    assert_eq!(holdings(&second_node).await.copies, [10, 20].into());
    assert_eq!(holdings(&first_node).await.sent, [10, 20].into());
    for (node, role) in [(&first_node, "primary"), (&second_node, "replica")] {
        let at = [("role", role), ("keep", "20")];
        step(node, "1", "keep", &at).await.unwrap();
    }
    // The primary is lost, with writes that no copy has.
    fs::write(first_node.volume().join("script"), "third").unwrap();
    let late = read_copy(&first_node, "1", &[("copy", "30"), ("base", "20")]);
    let late = late.await.unwrap();
    let sealed = step(&second_node, "2", "seal", &[]).await.unwrap();
    let sealed: VolumeCopies = serde_json::from_slice(&sealed).unwrap();
    assert_eq!((sealed.epoch, sealed.copies), (2, [20].into()));
    let refused = write_copy(&second_node, "1", &[("copy", "30"), ("base", "20")], &late).await;
    assert!(refused.is_err(), "{refused:?}");
    let promote = [("copy", "20"), ("bytes", "67108864")];
    for _ in 0..2 {
        step(&second_node, "2", "promote", &promote).await.unwrap();
    }
    assert_eq!(script(&second_node.volume()), "second");
    // Late steps do not reach the promoted volume.
    assert!(step(&second_node, "1", "demote", &[]).await.is_err());
    assert!(step(&second_node, "2", "demote", &[]).await.is_err());
    assert!(step(&second_node, "2", "forget", &[]).await.is_err());
    // The lost node returns. Its snapshot of the recovery point is the base of the next copy.
    let common = holdings(&second_node).await.common.unwrap();
    assert_eq!(common.time, 20);
    for _ in 0..2 {
        demote(&first_node, "2", &common).await.unwrap();
        assert_eq!(holdings(&first_node).await.copies, [20].into());
    }
    assert!(holdings(&first_node).await.sent.is_empty());
    assert!(!first_node.volume().exists());
    let name = format!("diverged-1-{VOLUME}");
    let diverged = first_node
        .directory
        .path()
        .join("pool/mount/snapshots")
        .join(&name);
    assert_eq!(script(&diverged), "third");
    let refused = fs::write(diverged.join("script"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(holdings(&first_node).await.diverged, [name].into());
    assert!(
        read_copy(&first_node, "1", &[("copy", "40")])
            .await
            .is_err()
    );
    assert!(
        read_copy(&first_node, "2", &[("copy", "40")])
            .await
            .is_err()
    );
    // It is the replica now, and is promoted in its turn.
    fs::write(second_node.volume().join("script"), "fourth").unwrap();
    let next = [("copy", "50"), ("base", "20")];
    let difference = read_copy(&second_node, "2", &next).await.unwrap();
    assert!(difference.len() < 1 << 20, "{}", difference.len());
    write_copy(&first_node, "2", &next, &difference)
        .await
        .unwrap();
    let at = [("role", "primary"), ("keep", "50")];
    step(&second_node, "2", "keep", &at).await.unwrap();
    assert_eq!(holdings(&second_node).await.common, None);
    step(&first_node, "3", "seal", &[]).await.unwrap();
    let promote = [("copy", "50"), ("bytes", "67108864")];
    step(&first_node, "3", "promote", &promote).await.unwrap();
    assert_eq!(script(&first_node.volume()), "fourth");
    // A promotion of an earlier epoch is not repeated.
    step(&second_node, "3", "demote", &[]).await.unwrap();
    assert!(step(&second_node, "2", "promote", &promote).await.is_err());
    assert!(!second_node.volume().exists());
    for _ in 0..2 {
        step(&second_node, "3", "forget", &[]).await.unwrap();
    }
    assert_eq!(names(&second_node), [format!(".epoch-0-{VOLUME}")]);
    assert!(step(&second_node, "9", "seal", &[]).await.is_err());
}

/// Promotes the copy 10 of the second node while the first node is absent.
async fn promoted() -> (Node, Node) {
    let (first_node, second_node) = with_volume().await;
    fs::write(first_node.volume().join("script"), "first").unwrap();
    copied(&first_node, &second_node, "1", &[("copy", "10")])
        .await
        .unwrap();
    fs::write(first_node.volume().join("script"), "second").unwrap();
    step(&second_node, "2", "seal", &[]).await.unwrap();
    let promote = [("copy", "10"), ("bytes", "67108864")];
    step(&second_node, "2", "promote", &promote).await.unwrap();
    (first_node, second_node)
}

#[tokio::test]
async fn a_snapshot_with_another_identity_is_no_base() {
    let (first_node, second_node) = promoted().await;
    let common = holdings(&second_node).await.common.unwrap();
    let foreign = CommonSnapshot {
        there: common.here.clone(),
        ..common.clone()
    };
    demote(&first_node, "2", &foreign).await.unwrap();
    let copies = holdings(&first_node).await;
    assert!(
        copies.copies.is_empty() && copies.sent.is_empty(),
        "{copies:?}"
    );
    assert_eq!(copies.diverged.len(), 1);
    // A complete copy is received instead.
    copied(&second_node, &first_node, "2", &[("copy", "50")])
        .await
        .unwrap();
    assert_eq!(holdings(&first_node).await.copies, [50].into());
    // A difference to another snapshot is refused, and its base is removed.
    let (first_node, second_node) = promoted().await;
    let common = holdings(&second_node).await.common.unwrap();
    let foreign = CommonSnapshot {
        here: common.there.clone(),
        ..common
    };
    demote(&first_node, "2", &foreign).await.unwrap();
    let next = [("copy", "50"), ("base", "10")];
    let refused = copied(&second_node, &first_node, "2", &next)
        .await
        .unwrap_err();
    assert!(refused.message.contains("another first copy"));
    assert!(holdings(&first_node).await.copies.is_empty());
}

#[tokio::test]
async fn a_node_that_was_replaced_removes_its_copies_and_keeps_its_state() {
    let (first_node, second_node) = promoted().await;
    for _ in 0..2 {
        let copies = step(&first_node, "3", "retire", &[]).await.unwrap();
        let copies: VolumeCopies = serde_json::from_slice(&copies).unwrap();
        assert!(copies.copies.is_empty() && copies.sent.is_empty() && !copies.has_volume);
        assert_eq!(copies.diverged, [format!("diverged-1-{VOLUME}")].into());
    }
    assert_eq!(names(&first_node), [format!(".epoch-0-{VOLUME}")]);
    // Late copies of an earlier epoch are refused.
    let late = copied(&second_node, &first_node, "2", &[("copy", "50")]).await;
    assert!(late.is_err(), "{late:?}");
    // A replica has copies alone.
    demote(
        &first_node,
        "4",
        &holdings(&second_node).await.common.unwrap(),
    )
    .await
    .unwrap();
    copied(&second_node, &first_node, "4", &[("copy", "60")])
        .await
        .unwrap();
    step(&first_node, "5", "retire", &[]).await.unwrap();
    assert_eq!(names(&first_node), [format!(".epoch-0-{VOLUME}")]);
    assert!(second_node.volume().exists());
}

#[tokio::test]
async fn a_former_primary_of_a_deleted_claim_keeps_nothing() {
    let (first_node, second_node) = with_volume().await;
    copied(&first_node, &second_node, "1", &[("copy", "10")])
        .await
        .unwrap();
    step(&second_node, "2", "seal", &[]).await.unwrap();
    let promote = [("copy", "10"), ("bytes", "67108864")];
    step(&second_node, "2", "promote", &promote).await.unwrap();
    step(&first_node, "2", "forget", &[]).await.unwrap();
    assert_eq!(names(&first_node), [format!(".epoch-0-{VOLUME}")]);
    assert!(second_node.volume().exists());
}
