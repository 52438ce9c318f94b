"""What a policy may do: functions and methods as tools, how they look to a task, how a call is carried out."""
