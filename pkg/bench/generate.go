package bench

//go:generate go tool bpf2go -target bpfel generator ../../bpf/bench/generator.c
//go:generate go tool bpf2go -target bpfel -type fault sink ../../bpf/bench/sink.c
//go:generate go tool bpf2go -target bpfel redirect ../../bpf/bench/redirect.c
//go:generate go tool bpf2go -target bpfel reference ../../bpf/bench/reference.c
