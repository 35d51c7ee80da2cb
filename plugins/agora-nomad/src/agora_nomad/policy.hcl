# All that the provider `nomad` of Agora needs, in one namespace:
#   python -m agora_nomad.policy NAMESPACE | nomad acl policy apply agora -
namespace "default" {
  capabilities = [
    "submit-job",      # register, stop, say why, and remove the record of what has ended
    "read-job",        # jobs, their allocations and evaluations, and the event stream
    "list-jobs",       # find what carries our mark
    "alloc-lifecycle", # SIGKILL for an earlier deadline, a force, or a second copy
    "read-logs",       # output
  ]

  # For secrets alone: one variable a dispatch, which is removed after its end.
  variables {
    path "nomad/jobs/agora-*" {
      capabilities = [
        "write",
        "destroy",
        "list", # what a lost store has left
        "read", # whose it is
      ]
    }
  }
}
