'use strict'

// Preloaded into ssb-server's test of its own program, which it starts with the node that runs the test: now with what
// `EXEC_PATH` names.
process.execPath = process.env.EXEC_PATH
