//! The pages of `examples`, pasted by a user who has only them (findings U7). The names of the tests
//! show the purpose of each application. The page of Cassandra is pasted in `cassandra.rs`, whose ring takes minutes.

use end_to_end::applications::{busybox, mariadb, postgres, redis, wordpress, zookeeper};
use end_to_end::image::Image;
use end_to_end::{Instance, Output, Pasted, Registry, with_registry_of};

/// Somebody with a server that can have the images.
struct Newcomer {
    pasted: Pasted<'static>,
    _instance: Instance,
    _registry: Registry,
}

impl Newcomer {
    #[track_caller]
    fn with(images: &[(&str, &str, &Image)]) -> Self {
        let (registry, instance) = with_registry_of(images);
        Self {
            pasted: Pasted::beside(&instance),
            _instance: instance,
            _registry: registry,
        }
    }
}

#[track_caller]
fn shows(output: &Output, parts: &[&str]) {
    for part in parts {
        assert!(output.stdout.contains(part), "{part}: {output:#?}");
    }
}

/// findings U7
#[test]
fn redis_page() {
    let image = redis();
    let images = [
        ("library/redis", "7", &image),
        ("library/redis", "5-alpine", &image),
    ];
    let parts = ["green\n", "role:slave", "1 packets received"];
    let newcomer = Newcomer::with(&images);
    shows(&newcomer.pasted.page("examples/redis/README.md"), &parts);
}

/// findings U7
#[test]
fn mariadb_page() {
    let images = [("library/mariadb", "10.11", &mariadb())];
    let parts = ["binlog.", "Slave_IO_Running: Yes", "COUNT(*)"];
    let newcomer = Newcomer::with(&images);
    shows(&newcomer.pasted.page("examples/mariadb/README.md"), &parts);
}

/// findings U7
#[test]
fn postgres_page() {
    let images = [("library/postgres", "15", &postgres())];
    let parts = [" Ghent", "streaming"];
    let newcomer = Newcomer::with(&images);
    shows(&newcomer.pasted.page("examples/postgres/README.md"), &parts);
}

/// findings U7
#[test]
fn zookeeper_page() {
    let images = [("library/zookeeper", "3.8", &zookeeper())];
    let parts = ["Ghent\n", "the budget keeps two members"];
    let newcomer = Newcomer::with(&images);
    shows(
        &newcomer.pasted.page("examples/zookeeper/README.md"),
        &parts,
    );
}

/// findings U7
#[test]
fn wordpress_page() {
    let images = [
        ("library/wordpress", "6", &wordpress()),
        ("library/mariadb", "10.11", &mariadb()),
    ];
    let parts = ["NodePort", "pod \"wordpress-db-0\" deleted"];
    let newcomer = Newcomer::with(&images);
    shows(
        &newcomer.pasted.page("examples/wordpress/README.md"),
        &parts,
    );
}

/// findings U7: the README's chart, whose image is on docker.io.
#[test]
fn the_chart_of_the_readme() {
    let newcomer = Newcomer::with(&[("library/busybox", "1", &busybox())]);
    let output = newcomer
        .pasted
        .part("README.md", "Helm charts install", Some("## Comparison"));
    shows(&output, &["Phase:          Succeeded"]);
}
