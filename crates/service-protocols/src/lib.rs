//! The messages and methods of the gRPC services that the program calls: etcd, CSI drivers, device plugins, drivers of
//! dynamic resource allocation, the registration of plugins, and the health check of containers. The program serves one
//! service, the registration of device plugins.
//!
//! `cargo xtask protocols` generates the modules from the published files in `proto/`.

use rpc_channel::{Method, ResponseDecoder};

#[rustfmt::skip]
#[path = "generated/authpb.rs"]
pub mod authpb;
#[rustfmt::skip]
#[path = "generated/csi_v1.rs"]
pub mod csi_v1;
#[rustfmt::skip]
#[path = "generated/v1beta1.rs"]
pub mod deviceplugin_v1beta1;
#[rustfmt::skip]
#[path = "generated/k8s_io_kubelet_pkg_apis_dra_v1.rs"]
pub mod dra_v1;
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

/// The decoders of the requests that the program serves.
const REQUESTS: &[ResponseDecoder] = &[Method::<(), deviceplugin_v1beta1::RegisterRequest>::new(
    deviceplugin_v1beta1::registration::REGISTER.path(),
)
.answer_decoder()];

/// The decoders of the responses of all methods, and of the served requests, for tests that pass them arbitrary input.
pub fn answers() -> impl Iterator<Item = &'static ResponseDecoder> {
    let protocols = [
        csi_v1::ANSWERS,
        deviceplugin_v1beta1::ANSWERS,
        dra_v1::ANSWERS,
        etcdserverpb::ANSWERS,
        grpc_health_v1::ANSWERS,
        pluginregistration::ANSWERS,
        REQUESTS,
    ];
    protocols.into_iter().flatten()
}
