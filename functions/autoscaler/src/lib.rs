//! Every deployment keeps its share of free servers, and no harm is done.
pub mod decision;
pub mod machine;
pub mod need;
pub mod policy;
pub mod samples;
