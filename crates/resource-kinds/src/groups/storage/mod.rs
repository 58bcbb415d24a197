//! storage.k8s.io.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
pub mod driver;
pub mod nfs_class;
pub mod rbd;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;
pub mod volume_move;
pub mod volume_replication;
pub mod volume_size;

pub use csi_driver::CSIDriver;
pub use csi_node::CSINode;
pub use csi_storage_capacity::CSIStorageCapacity;
pub use driver::Driver;
pub use storage_class::StorageClass;
pub use storage_class::is_default;
pub use volume_attachment::VolumeAttachment;
pub use volume_attributes_class::VolumeAttributesClass;
