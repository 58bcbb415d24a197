//! openapi-schema
