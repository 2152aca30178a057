// Package stackfile reads compose files for a swarm. Files are loaded as compose
// does (several of them, .env, interpolation, profiles), and what comes out is put
// into the older form that `docker stack deploy` takes: Form.
//
// What a swarm has another word for is said in that word (mem_limit, restart,
// scale, network_mode: host); what it has no word for is left out and named, all in
// one list. Where a file is not understood, Lint says where it is wrong and which
// word was probably meant.
package stackfile
