//! Images that are on a node already (`ImageLocality`).

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use super::part;
use crate::snapshot::SchedulingSnapshot;

/// The tag of an image name without a tag.
const LATEST: &str = ":latest";
const MIB: i128 = 1 << 20;
/// Images below the first size give no points; above the second size, for each container, the points do not grow.
const IMAGE_BYTES: (i128, i128) = (23 * MIB, 1000 * MIB);

/// The images of a pod's containers, with the number of nodes that have each image.
pub(super) struct Images<'p> {
    images: Vec<(&'p str, i128)>,
    nodes: i128,
}

impl<'p> Images<'p> {
    /// Counts the nodes that have the pod's images.
    pub fn of(pod: &'p PodView, snapshot: &SchedulingSnapshot<'_>) -> Self {
        let spec = &pod.spec;
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let named = all.filter_map(|one| one.image.as_deref());
        let nodes = &snapshot.view.nodes;
        let count = |image| {
            let with = nodes.values().filter(|node| bytes(node, image).is_some());
            i128::try_from(with.count()).unwrap_or(0)
        };
        Self {
            images: named.map(|image| (image, count(image))).collect(),
            nodes: i128::try_from(nodes.len()).unwrap_or(1).max(1),
        }
    }

    /// Points for the images on a node: the size of each image times the share of the nodes that have it, so that the
    /// first node with an image does not get all pods.
    pub fn points(&self, node: &Node) -> i64 {
        // An image that no node has gives no points.
        let present = self.images.iter().filter(|(_, with)| *with > 0);
        let worth = present.map(|(image, with)| {
            let bytes = bytes(node, image).unwrap_or(0).max(0);
            i128::from(bytes) * with / self.nodes
        });
        let containers = i128::try_from(self.images.len()).unwrap_or(1).max(1);
        let (least, most) = (IMAGE_BYTES.0, IMAGE_BYTES.1 * containers);
        let worth = worth.sum::<i128>().clamp(least, most);
        part(worth - least, most - least)
    }
}

/// The size of an image on a node; `None` if the node does not have the image.
fn bytes(node: &Node, image: &str) -> Option<i64> {
    let status = node.status.as_ref()?;
    // The lengths are compared first, because that does not read the text.
    let is_it = |name: &String| match name.len().checked_sub(image.len()) {
        Some(0) => name == image,
        Some(more) if more == LATEST.len() => name.starts_with(image) && name.ends_with(LATEST),
        _ => false,
    };
    let mut images = status.images.iter().flatten();
    let status_image = images.find(|one| one.names.iter().flatten().any(is_it))?;
    Some(status_image.size_bytes.unwrap_or(0))
}
