//! What a node holds of the overlay: start it, dial, and listen to its events.
