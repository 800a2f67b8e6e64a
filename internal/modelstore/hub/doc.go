// Package hub speaks the part of the Hugging Face Hub's HTTP API that downloading a model needs: the commit that
// a revision names, the tree of files at a commit, and the bytes of a file from an offset on. The requests are
// those of the huggingface_hub client, so mirrors and proxies made for it work.
//
// Everything a server says is bounded and checked here, except what the names and sizes mean on a disk, which is
// the business of modelstore.
package hub
