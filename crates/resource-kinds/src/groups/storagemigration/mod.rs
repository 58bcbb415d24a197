//! storagemigration.k8s.io: migrations of stored objects to the storage version of their kind.

mod storage_version_migration;

pub use storage_version_migration::StorageVersionMigration;
