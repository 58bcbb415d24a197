//! A pod whose image is changed.

use json_tree::json;

use crate::harness::Harness;

#[test]
fn another_image_ends_the_delays_of_the_former_one() {
    cov_mark::check!(findings_c12);
    // findings C12
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    harness.pass(0);
    for _ in 0..4 {
        harness.exit("c", 1);
        harness.pass(120);
    }
    harness.exit("c", 1);
    harness.pass(3);
    assert!(harness.state("c").starts_with("waiting CrashLoopBackOff"));
    harness.change_image("img:2");
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 5");
    // The delays are reset: as in kubelet, the start after the exit of the former image counts as the first
    // start.
    harness.exit("c", 1);
    harness.pass(10);
    assert_eq!(harness.state("c"), "running, ready true, restarts 6");

    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    harness
        .behaviour
        .bad_images
        .insert("c", ("ErrImagePull", "no"));
    harness.pass(60);
    assert!(harness.state("c").starts_with("waiting ImagePullBackOff"));
    harness.behaviour.bad_images.clear();
    harness.change_image("img:2");
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
}

#[test]
fn changed_image_restarts_the_container() {
    // statefulset.md 12.10
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    harness.pass(0);
    harness.pod.spec.as_mut().unwrap().containers[0].image = Some("img:2".to_owned());
    harness.pass(0);
    assert_eq!(
        harness.lines()[2],
        "0 Container c definition changed, will be restarted"
    );
    let status = &harness.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.image, "img:2");
}
