//! The harness itself: its registry serves complete images.

use end_to_end::Registry;
use end_to_end::applications::{busybox, nginx};
use end_to_end::registry::curl;

#[test]
fn the_registry_serves_what_was_pushed() {
    let registry = Registry::start();
    for (name, image) in [("busybox", busybox()), ("nginx", nginx("1"))] {
        registry.push(&format!("library/{name}"), "1", &image);
        let url = format!(
            "http://{}/v2/library/{name}/manifests/1",
            registry.address()
        );
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let manifest = curl(&["--fail", "-H", accept, &url]).expect("the manifest");
        let pushed = image.manifest.bytes().expect("the manifest");
        assert_eq!(manifest.as_bytes(), pushed.as_ref());
    }
}

#[test]
fn an_image_holds_its_programs() {
    let directory = tempfile::tempdir().expect("a directory");
    nginx("7").unpack(directory.path());
    for file in [
        "usr/sbin/nginx",
        "usr/bin/curl",
        "bin/sh",
        "etc/nginx/nginx.conf",
    ] {
        assert!(
            directory.path().join(file).symlink_metadata().is_ok(),
            "{file} is missing"
        );
    }
    let label = std::fs::read_to_string(directory.path().join("etc/image-label"));
    assert_eq!(label.expect("the label"), "7");
}
