//! The README's chart, pasted by a user who has only the page (findings U7). The tests of the applications paste the
//! pages of `examples`.

use end_to_end::applications::busybox;
use end_to_end::{Pasted, with_registry_of};

/// findings U7: its image is on docker.io.
#[test]
fn the_chart_of_the_readme() {
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &busybox())]);
    let output = Pasted::for_instance(&instance).part(
        "README.md",
        "Helm charts install",
        Some("## Comparison"),
    );
    let succeeded = "Phase:          Succeeded";
    assert!(output.stdout.contains(succeeded), "{output:#?}");
}
