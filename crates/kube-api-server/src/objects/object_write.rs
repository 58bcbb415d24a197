//! The transaction of a create or an update: the object, its allocations, and the quotas of its namespace.

use json_tree::Value;
use mvcc_store::{Compare, KeyValue, Operation as Write, Txn, Value as Stored};
use object_model::Status;
use resource_kinds::Allocation;

use crate::catalog::registry::Resource;
use crate::objects::allocations::{allocate, release};
use crate::objects::namespace_share::{self, Growth, Reservation};
use crate::objects::quota::{self, QuotaChange};
use crate::objects::storage::{Managers, Objects, Parts, PutResult, encode_within};
use crate::objects::write_turn::WriteTurn;

/// The new state of an object, which replaces the old state.
pub(crate) struct ObjectWrite<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The part of the object that the request changes, for instance `status`.
    pub(crate) subresource: &'a str,
    /// The replaced object, stored and decoded; `None` for a new object.
    pub(crate) old: Option<(&'a KeyValue, &'a Value)>,
    pub(crate) new: &'a Value,
    pub(crate) managers: &'a Managers,
    /// The parts of both objects that are not in their trees. These parts do not change.
    pub(crate) parts: &'a Parts,
    /// The allocations that the object gains, and the allocations that it releases.
    pub(crate) allocated: &'a [Allocation],
    pub(crate) released: &'a [Allocation],
    pub(crate) turn: Option<&'a WriteTurn>,
}

/// The result of an [`ObjectWrite`].
pub(crate) enum WriteResult {
    Stored(KeyValue),
    /// Nothing was written: the old object has changed, another object owns an allocation, or a quota has changed.
    Refused {
        /// Whether an object with this name exists.
        exists: bool,
        /// The first gained allocation that another object owns.
        conflict: Option<Allocation>,
    },
}

impl ObjectWrite<'_> {
    /// Checks the quotas of the namespace, without a write.
    ///
    /// *Errors.* 403 if a quota, or the namespace's share of the store, does not allow the change.
    pub(crate) async fn check_quota(&self, objects: &Objects) -> Result<(), Status> {
        let _reservation = self.reserve(objects, &self.encoded()?)?;
        quota::charge(objects, self.change(), &mut Txn::default()).await
    }

    /// Stores the object.
    ///
    /// *Errors.* 413 for a large object, 403 if a quota or the namespace's share of the store does not
    /// allow the change, or a failure of the store.
    pub(crate) async fn store(&self, objects: &Objects) -> Result<WriteResult, Status> {
        // The reservation lasts until the object is in the store, which counts its bytes then.
        let (txn, _reservation) = self.transaction(objects).await?;
        let present = match objects.put(txn).await? {
            PutResult::Stored(stored) => {
                let settled = quota::settle(objects, self.resource, stored).await?;
                return Ok(WriteResult::Stored(settled));
            }
            PutResult::Refused(present) => present,
        };
        let mut owners = present.iter().skip(1).zip(self.allocated);
        Ok(WriteResult::Refused {
            exists: present.first().is_some_and(Option::is_some),
            conflict: owners
                .find(|(holder, _)| holder.is_some())
                .map(|(_, allocation)| allocation.clone()),
        })
    }

    /// The comparisons are, in this order: one for the object, one for each gained allocation, those of the quotas, and
    /// that of the turn.
    async fn transaction<'o>(
        &self,
        objects: &'o Objects,
    ) -> Result<(Txn, Option<Reservation<'o>>), Status> {
        let info = self.resource.info();
        let lease = objects
            .leases
            .lease_for(objects.store.as_ref(), &info)
            .await?;
        let (key, compare) = match self.old {
            None => {
                let key = self.resource.key(self.namespace, self.name);
                (key.clone(), Compare::Absent(key))
            }
            Some((stored, _)) => {
                let key = stored.key.to_vec();
                let compare = Compare::ModRevision(key.clone(), stored.mod_revision);
                (key, compare)
            }
        };
        let value = self.encoded()?;
        let reservation = self.reserve(objects, &value)?;
        let mut txn = Txn {
            compare: vec![compare],
            operations: vec![Write::Put {
                key: key.clone(),
                value,
                lease,
            }],
        };
        for allocation in self.allocated {
            allocate(&objects.catalog, &mut txn, allocation, &key);
        }
        for allocation in self.released {
            release(&objects.catalog, &mut txn, allocation);
        }
        quota::announce(self.resource, self.namespace, &mut txn);
        quota::charge(objects, self.change(), &mut txn).await?;
        if let Some(turn) = self.turn {
            turn.add_to(&mut txn);
        }
        Ok((txn, reservation))
    }

    /// The bytes of the old object.
    fn old_len(&self) -> Option<usize> {
        self.old.map(|(stored, _)| stored.value.len())
    }

    fn encoded(&self) -> Result<Stored, Status> {
        let (info, size) = (self.resource.info(), self.old_len().unwrap_or(0));
        encode_within(&info, self.new, self.managers, self.parts, size)
    }

    fn reserve<'o>(
        &self,
        objects: &'o Objects,
        value: &Stored,
    ) -> Result<Option<Reservation<'o>>, Status> {
        let growth = Growth {
            resource: self.resource,
            namespace: self.namespace,
            name: self.name,
            subresource: self.subresource,
            old: self.old_len(),
            new: value.len(),
        };
        namespace_share::reserve(&objects.pending_bytes, objects.store.as_ref(), &growth)
    }

    fn change(&self) -> QuotaChange<'_> {
        QuotaChange {
            resource: self.resource,
            namespace: self.namespace,
            name: self.name,
            old: self.old.map(|(_, old)| old),
            new: Some(self.new),
            parts: self.parts,
        }
    }
}
