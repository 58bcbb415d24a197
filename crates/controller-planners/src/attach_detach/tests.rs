use super::*;

fn volume() -> Volume {
    Volume {
        volume: "pv".to_owned(),
        unique_name: "kubernetes.io/csi/d^h".to_owned(),
        driver: "d".to_owned(),
        is_exclusive: true,
    }
}

fn attachment(is_attached: bool) -> Attachment {
    Attachment {
        name: "csi-1".to_owned(),
        uid: "u".parse().unwrap(),
        version: "7".parse().unwrap(),
        is_claimed: true,
        node: "n".to_owned(),
        volume: "pv".to_owned(),
        unique_name: Some(volume().unique_name),
        is_attached,
        error: None,
        is_deleting: false,
    }
}

/// A node by three facts: whether a pod needs the volume, whether the volume is in use, and whether the volume is in
/// `volumesAttached`.
fn view(needed: bool, in_use: bool, attached: bool) -> ObservedNode {
    let names = |has: bool| has.then(|| volume().unique_name).into_iter().collect();
    ObservedNode {
        name: "n".to_owned(),
        node: Some(Node {
            in_use: names(in_use),
            attached: names(attached),
            is_claimed: true,
        }),
        desired: needed
            .then(|| ("csi-1".to_owned(), volume()))
            .into_iter()
            .collect(),
        ..ObservedNode::default()
    }
}

fn with(mut view: ObservedNode, attachment: Attachment) -> ObservedNode {
    view.attachments.push(attachment);
    view
}

fn set(names: &[&str]) -> Vec<AttachDetachAction> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    vec![AttachDetachAction::SetAttached(names)]
}

fn detached() -> Vec<AttachDetachAction> {
    vec![detach(&attachment(true))]
}

#[test]
fn a_volume_is_attached_told_and_detached_in_order() {
    let attach = AttachDetachAction::Attach {
        name: "csi-1".to_owned(),
        volume: volume(),
    };
    assert_eq!(plan(&view(true, false, false)), [attach]);
    let waits = with(view(true, true, false), attachment(false));
    assert_eq!(plan(&waits), []);
    let attached = with(view(true, true, false), attachment(true));
    assert_eq!(plan(&attached), set(&["kubernetes.io/csi/d^h"]));
    assert_eq!(plan(&with(view(true, true, true), attachment(true))), []);
    // The pod was deleted, but the volume is still mounted.
    let mounted = with(view(false, true, true), attachment(true));
    assert_eq!(plan(&mounted), []);
    assert!(needs_proof(&mounted));
    // First the Node's status changes, then the volume is detached.
    let free = with(view(false, false, true), attachment(true));
    assert_eq!(plan(&free), set(&[]));
    let free = with(view(false, false, false), attachment(true));
    assert_eq!(plan(&free), detached());
    assert!(!needs_proof(&free));
    let going = Attachment {
        is_deleting: true,
        ..attachment(true)
    };
    assert_eq!(plan(&with(view(false, false, false), going.clone())), []);
    // A pod needs the volume again while the attachment is being deleted: the deletion must end first.
    assert_eq!(plan(&with(view(true, false, false), going)), []);
}

#[test]
fn a_leader_writes_the_node_before_it_detaches() {
    let mut free = with(view(false, false, false), attachment(true));
    let node = free.node.as_mut().unwrap();
    node.is_claimed = false;
    assert_eq!(plan(&free), [AttachDetachAction::ClaimNode]);
    free.proof = Some(DetachProof::Fenced);
    assert_eq!(plan(&free), [AttachDetachAction::ClaimNode]);
    // A plan that only waits for attachments needs no write of the Node.
    let mut waits = view(true, false, false);
    waits.node.as_mut().unwrap().is_claimed = false;
    assert!(matches!(
        plan(&waits)[..],
        [AttachDetachAction::Attach { .. }]
    ));
}

#[test]
fn a_proof_stands_for_the_node_that_cannot_say_any_more_what_it_uses() {
    let mut lost = with(view(false, true, true), attachment(true));
    lost.proof = Some(DetachProof::OutOfService);
    assert_eq!(plan(&lost), set(&[]));
    let mut lost = with(view(false, true, false), attachment(true));
    lost.proof = Some(DetachProof::Fenced);
    assert_eq!(plan(&lost), detached());
    // A volume of a pod that is still bound to the node stays attached in any case.
    let mut bound = with(view(true, true, true), attachment(true));
    bound.proof = Some(DetachProof::Fenced);
    assert_eq!(plan(&bound), []);
    // The deletion of a Node does not prove that the machine is stopped.
    let mut deleted = with(view(false, true, true), attachment(true));
    deleted.node = None;
    assert_eq!(plan(&deleted), []);
    assert!(needs_proof(&deleted));
    deleted.proof = Some(DetachProof::Fenced);
    assert_eq!(plan(&deleted), detached());
}

#[test]
fn an_attachment_of_a_former_leader_is_claimed_before_a_pod_may_use_it() {
    let former = Attachment {
        is_claimed: false,
        ..attachment(true)
    };
    let claims = [claim(&former)];
    assert_eq!(plan(&with(view(true, true, false), former.clone())), claims);
    // The former leader wrote `volumesAttached`, and has not started to detach the volume.
    assert_eq!(plan(&with(view(true, true, true), former.clone())), []);
    assert_eq!(
        plan(&with(view(false, false, true), former.clone())),
        set(&[])
    );
    assert_eq!(plan(&with(view(false, false, false), former)), detached());
}

#[test]
fn pods_hear_why_their_volume_is_not_attached() {
    let broken = |is_attached| Attachment {
        error: Some("rpc error: no room".to_owned()),
        ..attachment(is_attached)
    };
    let failed = AttachDetachAction::Failed {
        volume: volume(),
        error: "rpc error: no room".to_owned(),
    };
    assert_eq!(
        plan(&with(view(true, true, false), broken(false))),
        [failed]
    );
    assert_eq!(plan(&with(view(true, true, true), broken(true))), []);
    assert_eq!(
        plan(&with(view(false, false, false), broken(false))),
        detached()
    );
}

#[test]
fn a_volume_for_one_node_is_not_attached_to_two() {
    let mut second = view(true, false, false);
    let other: BTreeSet<String> = ["m".to_owned()].into();
    second.elsewhere.insert("pv".to_owned(), other.clone());
    let refused = AttachDetachAction::Refuse {
        volume: volume(),
        nodes: other,
    };
    assert_eq!(plan(&second), [refused]);
    for volume in second.desired.values_mut() {
        volume.is_exclusive = false;
    }
    assert!(matches!(
        plan(&second).as_slice(),
        [AttachDetachAction::Attach { .. }]
    ));
}

#[test]
fn names_of_others_and_volumes_without_an_object_are_left_alone() {
    let mut foreign = view(false, false, false);
    let node = foreign.node.as_mut().unwrap();
    node.attached.insert("example.com/disk".to_owned());
    assert_eq!(plan(&foreign), []);
    let lost = Attachment {
        unique_name: None,
        ..attachment(true)
    };
    assert_eq!(plan(&with(view(false, true, false), lost.clone())), []);
    assert_eq!(plan(&with(view(false, false, false), lost)), detached());
}

/// Every situation of one volume: the volume is never detached while the node may use the volume, unless there is a
/// proof; `volumesAttached` has the volume only when the attachment is this leader's; and no action follows a write
/// that the next plan relies on.
#[test]
fn no_situation_takes_a_volume_from_a_pod() {
    for bits in 0..256_u32 {
        let bit = |n: u32| bits & 1 << n != 0;
        let mut view = view(bit(0), bit(1), bit(2));
        if bit(3) {
            view.attachments.push(Attachment {
                is_claimed: bit(6),
                ..attachment(bit(4))
            });
        }
        if bit(7) {
            view.node = None;
        }
        view.proof = bit(5).then_some(DetachProof::Fenced);
        let actions = plan(&view);
        let detaches = actions.contains(&detached()[0]);
        assert!(!(detaches && bit(0)), "wanted: {view:?}");
        assert!(!(detaches && bit(1) && !bit(5)), "in use: {view:?}");
        assert!(!(detaches && bit(2) && !bit(7)), "not told first: {view:?}");
        assert!(!(detaches && bit(7) && !bit(5)), "no proof: {view:?}");
        if let Some(AttachDetachAction::SetAttached(names)) = actions.first() {
            assert_eq!(actions.len(), 1);
            let adds = !names.is_empty() && !bit(2);
            assert!(!adds || bit(6), "not claimed: {view:?}");
        }
        if actions
            .iter()
            .any(|one| matches!(one, AttachDetachAction::Claim { .. }))
        {
            assert_eq!(actions.len(), 1);
        }
    }
}
