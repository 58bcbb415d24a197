//! storage.k8s.io.

mod storage_class;

pub use storage_class::StorageClass;
