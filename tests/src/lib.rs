//! hawsepipe-tests
