// Package config fills a struct of options from, in this order of precedence, its defaults, a YAML file,
// environment variables and command-line flags. One pair of struct tags names an option everywhere:
//
//	KVBlocks int `yaml:"kv_blocks" doc:"KV blocks; 0 sizes the pool from memory"`
//
// is the key kv_blocks of a file, the variable TROUPE_KV_BLOCKS and the flag --kv-blocks. Every mistake is
// refused with the key, where it stands, what was found and what is expected.
package config
