//! The kernel's copy of one table, changed in whole transactions.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use service_routing::{Table, TableChange, changes};

use crate::encode::{Encoder, GET_TABLE};
use crate::limits;
use crate::message::{self, FAMILY_IPV4, NLM_F_DUMP, NLMSG_DONE, replies};

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EMSGSIZE: i32 = 90;
const ENOBUFS: i32 = 105;

/// The error of a change to the table.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// An operation on the netlink socket failed; the process needs root.
    #[error("{doing} on the netfilter socket")]
    Socket {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The kernel rejected a transaction, which has no effect.
    #[error("kernel refused nftables message of type {message} (errno {errno})")]
    Refused {
        errno: i32,
        /// The type (`NFT_MSG_*`) of the first rejected message.
        message: u16,
    },
}

impl KernelError {
    /// Whether a smaller change may succeed: the kernel rejected this change, or the change is too large
    /// for the socket.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            KernelError::Refused { .. } => true,
            KernelError::Socket { source, .. } => {
                let number = source.raw_os_error();
                number.is_some_and(|number| [EMSGSIZE, ENOBUFS, ENOMEM].contains(&number))
            }
        }
    }
}

fn failed(doing: &'static str) -> impl FnOnce(std::io::Error) -> KernelError {
    move |source| KernelError::Socket { doing, source }
}

/// A table in the kernel, in the network namespace in which the connection was opened.
pub struct Kernel {
    socket: Socket,
    name: String,
    send_buffer_bytes: usize,
}

impl Kernel {
    /// Opens a connection for the table of an instance. The table of a former process stays active until
    /// the first [`Kernel::replace`].
    ///
    /// # Errors
    /// There is no netfilter, or no permission to use it.
    pub fn open(instance_id: &str) -> Result<Kernel, KernelError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        socket.set_cap_ack(true).map_err(failed("set up"))?;
        socket.set_non_blocking(true).map_err(failed("set up"))?;
        let name = format!("mainstay-{instance_id}");
        Ok(Kernel {
            socket,
            name,
            send_buffer_bytes: 0,
        })
    }

    /// Replaces the kernel's table by `table`, in one transaction, and returns the number of steps.
    ///
    /// # Errors
    /// The kernel rejects the table and keeps its present table.
    pub fn replace(&mut self, table: &Table) -> Result<usize, KernelError> {
        let steps = changes(&Table::default(), table);
        let bytes = with_steps(self.replacement(), &steps).into_bytes();
        self.transact(&bytes).map(|()| steps.len())
    }

    /// Whether the kernel would accept the table in place of its present table, which does not change.
    ///
    /// # Errors
    /// An operation on the socket fails.
    pub fn accepts(&mut self, table: &Table) -> Result<bool, KernelError> {
        let steps = changes(&Table::default(), table);
        let bytes = with_steps(self.replacement(), &steps).into_trial();
        match self.transact(&bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn replacement(&self) -> Encoder<'_> {
        let mut encoder = Encoder::new(&self.name);
        encoder.remove_table();
        encoder.add_table();
        encoder
    }

    /// Applies the steps to the kernel's table, in one transaction.
    ///
    /// # Errors
    /// The kernel rejects the steps and keeps its present table.
    pub fn change(&mut self, steps: &[TableChange]) -> Result<(), KernelError> {
        if steps.is_empty() {
            return Ok(());
        }
        let bytes = with_steps(Encoder::new(&self.name), steps).into_bytes();
        self.transact(&bytes)
    }

    /// Removes the table, even if a former process created it.
    ///
    /// # Errors
    /// The kernel rejects the removal.
    pub fn remove(&mut self) -> Result<(), KernelError> {
        let mut encoder = Encoder::new(&self.name);
        encoder.remove_table();
        let bytes = encoder.into_bytes();
        self.transact(&bytes)
    }

    /// Whether the kernel has the table.
    ///
    /// # Errors
    /// An operation on the socket fails.
    pub fn is_present(&mut self) -> Result<bool, KernelError> {
        let name = self.name.clone();
        let ask = message::single(FAMILY_IPV4, message::nftables(GET_TABLE), 0, |attributes| {
            attributes.text(1, &name)
        });
        match self.transact(&ask) {
            Ok(()) => Ok(true),
            Err(KernelError::Refused { errno: ENOENT, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Requests a list of objects, and calls `each` with the family and the attributes of each object.
    pub(crate) fn list(
        &mut self,
        family: u8,
        kind: u16,
        fill: impl FnOnce(&mut message::Attributes<'_>),
        mut each: impl FnMut(u8, &[u8]),
    ) -> Result<(), KernelError> {
        let request = message::single(family, kind, NLM_F_DUMP, fill);
        self.socket.send(&request, 0).map_err(failed("send"))?;
        loop {
            let (received, _) = self.socket.recv_from_full().map_err(failed("receive"))?;
            for reply in replies(&received) {
                match reply.error {
                    Some((errno, message)) => return Err(KernelError::Refused { errno, message }),
                    None if reply.kind == NLMSG_DONE => return Ok(()),
                    None => each(reply.family, reply.attributes),
                }
            }
        }
    }

    /// Sends messages and reads the responses. The kernel executes the messages within the send call. So
    /// all errors can be read when the call returns, and without an error, all messages were executed.
    pub(crate) fn transact(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        self.grow_send_buffer(bytes.len())?;
        self.socket.send(bytes, 0).map_err(failed("send"))?;
        let mut refused = None;
        loop {
            let received = match self.socket.recv_from_full() {
                Ok((received, _)) => received,
                Err(error) if error.raw_os_error() == Some(EAGAIN) => break,
                Err(error) => return Err(failed("receive")(error)),
            };
            let mut errors = replies(&received)
                .into_iter()
                .filter_map(|reply| reply.error);
            refused = refused.or(errors.find(|(errno, _)| *errno != 0));
        }
        refused.map_or(Ok(()), |(errno, message)| {
            Err(KernelError::Refused { errno, message })
        })
    }

    fn grow_send_buffer(&mut self, bytes: usize) -> Result<(), KernelError> {
        let needed = (bytes * 2).max(limits::SEND_BUFFER_BYTES_MIN);
        if needed > self.send_buffer_bytes {
            setsockopt(&self.socket, sockopt::SndBufForce, &needed)
                .map_err(|errno| failed("enlarge the send buffer")(errno.into()))?;
            self.send_buffer_bytes = needed;
        }
        Ok(())
    }
}

fn with_steps<'e>(mut encoder: Encoder<'e>, steps: &[TableChange]) -> Encoder<'e> {
    for step in steps {
        encoder.change(step);
    }
    encoder
}
