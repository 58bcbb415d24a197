//! Methods of services, with the types of their messages.

use std::marker::PhantomData;

use prost::{DecodeError, Message};

/// A method with one request `Q` and one response `A`.
#[derive(Debug)]
pub struct Method<Q, A> {
    path: &'static str,
    messages: PhantomData<fn(Q) -> A>,
}

/// A method with a stream of requests `Q`, of responses `A`, or of both.
#[derive(Debug)]
pub struct StreamMethod<Q, A>(Method<Q, A>);

/// The decoder of a method's responses, for tests that pass it arbitrary input.
#[derive(Clone, Copy, Debug)]
pub struct ResponseDecoder {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Decodes a response, and encodes it again.
    pub recode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

impl<Q, A> Clone for Method<Q, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, A> Copy for Method<Q, A> {}

impl<Q, A> Clone for StreamMethod<Q, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, A> Copy for StreamMethod<Q, A> {}

impl<Q, A> Method<Q, A> {
    pub const fn new(path: &'static str) -> Self {
        Self {
            path,
            messages: PhantomData,
        }
    }

    /// `/package.Service/Method`.
    pub const fn path(self) -> &'static str {
        self.path
    }

    /// The name without the service.
    pub fn name(self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl<Q, A: Message + Default> Method<Q, A> {
    pub const fn answer_decoder(self) -> ResponseDecoder {
        ResponseDecoder {
            path: self.path,
            recode: recode::<A>,
        }
    }
}

impl<Q, A> StreamMethod<Q, A> {
    pub const fn new(path: &'static str) -> Self {
        Self(Method::new(path))
    }

    /// `/package.Service/Method`.
    pub const fn path(self) -> &'static str {
        self.0.path
    }
}

impl<Q, A: Message + Default> StreamMethod<Q, A> {
    pub const fn answer_decoder(self) -> ResponseDecoder {
        self.0.answer_decoder()
    }
}

fn recode<A: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    A::decode(bytes).map(|response| response.encode_to_vec())
}
