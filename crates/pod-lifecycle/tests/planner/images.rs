//! A pod whose image is changed.

use json_tree::json;

use crate::world::World;

#[test]
fn another_image_ends_the_delays_of_the_former_one() {
    cov_mark::check!(findings_c12);
    // findings C12
    let mut world = World::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    world.pass(0);
    for _ in 0..4 {
        world.exit("c", 1);
        world.pass(120);
    }
    world.exit("c", 1);
    world.pass(3);
    assert!(world.state("c").starts_with("waiting CrashLoopBackOff"));
    world.change_image("img:2");
    world.pass(0);
    assert_eq!(world.state("c"), "running, ready true, restarts 5");
    // The delays are reset: as in kubelet, the start after the exit of the former image counts as the first
    // start.
    world.exit("c", 1);
    world.pass(10);
    assert_eq!(world.state("c"), "running, ready true, restarts 6");

    let mut world = World::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    world
        .behaviour
        .bad_images
        .insert("c", ("ErrImagePull", "no"));
    world.pass(60);
    assert!(world.state("c").starts_with("waiting ImagePullBackOff"));
    world.behaviour.bad_images.clear();
    world.change_image("img:2");
    world.pass(0);
    assert_eq!(world.state("c"), "running, ready true, restarts 0");
}
