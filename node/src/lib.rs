//! freehold
