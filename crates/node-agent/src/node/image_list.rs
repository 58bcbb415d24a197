//! The list of images in a node's status (`status.images`).

use image_store::Image;
use k8s_openapi::api::core::v1::ContainerImage;

use crate::images::by_digest;
use crate::limits::{STATUS_IMAGE_NAMES_MAX, STATUS_IMAGES_MAX};

/// The largest images, the largest first, in kubelet's form.
pub fn status_images(mut images: Vec<Image>) -> Vec<ContainerImage> {
    images.sort_unstable_by(|a, b| (b.size, &a.digest).cmp(&(a.size, &b.digest)));
    images.truncate(STATUS_IMAGES_MAX);
    let images = images.into_iter();
    images
        .map(|image| ContainerImage {
            names: Some(names(&image)),
            size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
        })
        .collect()
}

/// First the names by digest, if a registry has the image, then the names by tag.
fn names(image: &Image) -> Vec<String> {
    let (exact, tagged): (Vec<&String>, Vec<&String>) =
        image.references.iter().partition(|name| name.contains('@'));
    let mut names: Vec<String> = exact.into_iter().cloned().collect();
    if !image.pinned {
        let tagged = tagged.iter();
        names.extend(tagged.map(|name| by_digest(name, &image.digest)));
    }
    names.sort_unstable();
    names.dedup();
    names.extend(tagged.into_iter().cloned());
    names.truncate(STATUS_IMAGE_NAMES_MAX);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(references: &[&str], size: u64, pinned: bool) -> Image {
        Image {
            id: "sha256:i".to_owned(),
            digest: "sha256:d".to_owned(),
            references: references.iter().map(|&name| name.to_owned()).collect(),
            config: Default::default(),
            layers: Vec::new(),
            size,
            pinned,
        }
    }

    #[test]
    fn the_largest_images_are_named_by_digest_and_tag() {
        // statefulset.md 12.16
        let small = image(&["docker.io/mainstay/hello:latest"], 1, true);
        let names = ["r:5000/a:1", "r:5000/a:2", "r:5000/b@sha256:d"];
        let large = image(&names, 7, false);
        let reported = status_images(vec![small.clone(), large]);
        let names = reported[0].names.clone().unwrap();
        assert_eq!(
            names,
            [
                "r:5000/a@sha256:d",
                "r:5000/b@sha256:d",
                "r:5000/a:1",
                "r:5000/a:2"
            ]
        );
        assert_eq!(reported[0].size_bytes, Some(7));
        assert_eq!(
            reported[1].names.clone().unwrap(),
            ["docker.io/mainstay/hello:latest"]
        );
        let many: Vec<Image> = (0..60).map(|size| image(&["r/a:1"], size, false)).collect();
        let reported = status_images(many);
        assert_eq!((reported.len(), reported[49].size_bytes), (50, Some(10)));
    }
}
