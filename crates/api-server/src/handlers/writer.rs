//! The parts that a write needs: the stored objects, access control and admission.

use std::sync::Arc;

use crate::access::Access;
use crate::admission::Admission;
use crate::objects::storage::Objects;

/// The parts of the server that writes go through.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) objects: &'a Arc<Objects>,
    pub(crate) access: &'a Access,
    pub(crate) admission: &'a Admission,
}
