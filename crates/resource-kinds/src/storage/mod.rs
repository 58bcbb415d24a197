//! storage.k8s.io.

mod storage_class;

pub use storage_class::StorageClass;
pub(crate) use storage_class::is_default;
