//! Changes of a document by a patch: JSON patch (RFC 6902), merge patch (RFC 7396), Kubernetes' strategic merge
//! patch; and server-side apply. Pure: the input is a document and a patch, the output is a document or an error.

pub mod apply;
mod error;
mod json;
mod order;
mod strategic;
mod three_way;

pub use error::PatchError;
pub use json::{json_patch, merge_patch};
pub use strategic::strategic_merge_patch;
pub use three_way::apply_patch;
