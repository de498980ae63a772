//! The routing table: buckets by distance, with room for many networks in each.
