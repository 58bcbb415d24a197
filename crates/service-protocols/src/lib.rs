//! The messages and methods of the gRPC services that the program calls: etcd, CSI drivers and their registration,
//! and the health check of containers.
//!
//! `cargo xtask protocols` generates the modules from the published files in `proto/`.

use rpc_channel::ResponseDecoder;

#[rustfmt::skip]
#[path = "generated/authpb.rs"]
pub mod authpb;
#[rustfmt::skip]
#[path = "generated/csi_v1.rs"]
pub mod csi_v1;
#[rustfmt::skip]
#[path = "generated/etcdserverpb.rs"]
pub mod etcdserverpb;
#[rustfmt::skip]
#[path = "generated/grpc_health_v1.rs"]
pub mod grpc_health_v1;
#[rustfmt::skip]
#[path = "generated/mvccpb.rs"]
pub mod mvccpb;
#[rustfmt::skip]
#[path = "generated/pluginregistration.rs"]
pub mod pluginregistration;

/// The decoders of the responses of all methods, for tests that pass them arbitrary input.
pub fn answers() -> impl Iterator<Item = &'static ResponseDecoder> {
    let protocols = [
        csi_v1::ANSWERS,
        etcdserverpb::ANSWERS,
        grpc_health_v1::ANSWERS,
        pluginregistration::ANSWERS,
    ];
    protocols.into_iter().flatten()
}
