//! hawsepipe
