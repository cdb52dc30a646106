# How many tasks. Out in a minute or two, in slowly. Scaling in never cuts what runs: a task that is chosen gets TERM,
# finishes what it has begun (a gift 20 s at most, a sweep 55 s, WORKER_GRACE 100 s, KILL after 120 s), and one that runs a
# job, which may take 900 s, is protected from being chosen (iam.tf).

locals {
  # {process: {min, max}}. dev: one of each, and room to see it scale.
  capacity = {
    for process, task in local.tasks : process => {
      min = local.production ? task.min : min(task.min, 1)
      max = local.production ? task.max : min(task.max, 2)
    }
  }
  scaled = { for process, capacity in local.capacity : process => capacity if local.tasks[process].min < local.tasks[process].max }

  # Messages that one task may have waiting, by target tracking: visible messages of its queues ÷ running tasks.
  #
  # A task is four pool processes, so it does 4 ÷ (seconds of one message) a second, and a backlog of n a task is
  # gone after n × seconds ÷ 4. Measured, a task does 150 gifts a second; but that is a provider that answers at once. A real one
  # takes 0.2 s to 8 s (SENDER_READ_TIMEOUT), so:
  #
  #   worker   plan with 2 s a gift and 60 s of waiting: 60 × 4 ÷ 2 = 120. If every call takes 8 s, 120 wait for
  #            240 s: still within the 300 s of the promise (95 % SENT within five minutes), while new tasks come.
  #   jobs     plan with 30 s a job and 300 s of waiting: 300 × 4 ÷ 30 = 40. Jobs have no promised time.
  #
  # `alarm`: the age in seconds of a message at which scaling has evidently not helped.
  pool_processes = 4 # each worker is told so: WORKER_COUNT
  plan = {
    worker = { wait = 60, seconds = 2, alarm = 300 }
    jobs   = { wait = 300, seconds = 30, alarm = 900 }
  }
  # {process: {metric of AWS: its target for each task}} of those that have no queue.
  #
  # The API: by requests, which lead, and by CPU, which catches what requests do not tell.
  #
  #   requests   an accept costs 2 ms of CPU (docs/performance.md), and a task has half a core: 250 a second at the very
  #              most. 100 a second, 6,000 a minute, use 40 % of it: room for what a minute may bring.
  #   CPU 70 %   leaves a third for the minute in which the next task starts.
  tracked = {
    web = { ALBRequestCountPerTarget = 6000, ECSServiceAverageCPUUtilization = 70 }
  }

  backlog_per_task = { for process, plan in local.plan : process => plan.wait * local.pool_processes / plan.seconds }
}

resource "aws_appautoscaling_target" "service" {
  for_each = local.scaled

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.main.name}/${module.service[each.key].name}"
  min_capacity       = each.value.min
  max_capacity       = each.value.max

  depends_on = [module.service] # the name alone is known before there is a service
}

resource "aws_appautoscaling_policy" "backlog" {
  for_each = local.groups

  name               = "backlog-per-task"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.service[each.key].service_namespace
  scalable_dimension = aws_appautoscaling_target.service[each.key].scalable_dimension
  resource_id        = aws_appautoscaling_target.service[each.key].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = local.backlog_per_task[each.key]
    scale_out_cooldown = 60
    scale_in_cooldown  = 300 # a new task costs a minute; a lull is no reason to pay it again

    customized_metric_specification {
      # One metric a queue of the group. Of queues that nothing has touched for six hours SQS reports none: 0.
      dynamic "metrics" {
        for_each = { for number, queue in each.value : "queue${number}" => module.messaging.names[queue] }

        content {
          id          = metrics.key
          label       = "Waiting in ${metrics.value}"
          return_data = false

          metric_stat {
            stat = "Average"

            metric {
              namespace   = "AWS/SQS"
              metric_name = "ApproximateNumberOfMessagesVisible"

              dimensions {
                name  = "QueueName"
                value = metrics.value
              }
            }
          }
        }
      }

      metrics {
        id          = "running"
        label       = "Running tasks"
        return_data = false

        metric_stat {
          stat = "Average"

          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"

            dimensions {
              name  = "ClusterName"
              value = aws_ecs_cluster.main.name
            }
            dimensions {
              name  = "ServiceName"
              value = module.service[each.key].name
            }
          }
        }
      }

      metrics {
        id          = "backlog"
        label       = "Waiting messages a running task"
        expression  = "(${join(" + ", [for number, _ in each.value : "FILL(queue${number}, 0)"])}) / IF(FILL(running, 1) > 0, FILL(running, 1), 1)"
        return_data = true
      }
    }
  }
}

resource "aws_appautoscaling_policy" "tracked" {
  for_each = merge([
    for process, targets in local.tracked : {
      for metric, target in targets : "${process}-${metric}" => { process = process, metric = metric, target = target }
    }
  ]...)

  name               = each.value.metric
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.service[each.value.process].service_namespace
  scalable_dimension = aws_appautoscaling_target.service[each.value.process].scalable_dimension
  resource_id        = aws_appautoscaling_target.service[each.value.process].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = each.value.target
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = each.value.metric
      # Requests are counted by target group.
      resource_label = each.value.metric != "ALBRequestCountPerTarget" ? null : join("/", [
        aws_lb.api.arn_suffix, aws_lb_target_group.process[each.value.process].arn_suffix,
      ])
    }
  }
}
