-- What may happen to a job: the same as the pure rules in src/queue/rules.rs.

local function quiet(job)
  if not job.progress then return end
  -- What is in flight are the last two fields, which are cut off as text, since this language cannot write back every
  -- JSON that it reads.
  local at = string.find(job.progress, ',"bytes_per_second":', 1, true) or string.find(job.progress, ',"active":[', 1, true)
  if at then job.progress = string.sub(job.progress, 1, at - 1) .. '}' end
end

local function finish(job, state, retention)
  job.state = state
  job.due = false
  job.lease_until = false
  job.nonce = false
  quiet(job)
  job.finished_at = int(NOW)
  FORGET[job] = int(retention / 1000 + 60000)
end

local function fail(job, reason, message, retention)
  job.reason = reason
  job.message = message
  finish(job, 'failed', retention)
end

local function miss_deadline(job, retention)
  local before = job.message and ' (before: ' .. job.message .. ')' or ''
  fail(job, 'deadline_missed', 'the job was not done by its deadline; hint: ask again with a later one, or with none'
    .. before, retention)
end

local function call_off(job, retention)
  job.reason = 'cancelled'
  finish(job, 'cancelled', retention)
end

local function wait_until(job, reason, message, due)
  job.reason = reason
  job.message = message
  job.state = 'waiting'
  job.due = int(due)
  quiet(job)
end

local function snooze(job, reason, message, due, retention)
  local deadline = tonumber(job.deadline)
  if deadline and deadline <= due then
    job.message = message
    return miss_deadline(job, retention)
  end
  wait_until(job, reason, message, due)
end

-- The hours in which a job may run, as text; nil if it may at any time.
local function window_of(job)
  if job.window then return job.window ~= 'none' and job.window or nil end
  local fine, payload = pcall(cjson.decode, job.job)
  local own = fine and type(payload) == 'table' and payload.window
  return type(own) == 'string' and own or nil
end

local function outside_of(job)
  if job.bandwidth_outside then return tonumber(job.bandwidth_outside) end
  local fine, payload = pcall(cjson.decode, job.job)
  return fine and type(payload) == 'table' and tonumber(payload.bandwidth_outside) or nil
end

local function pieces(text)
  local list = {}
  for piece in string.gmatch(text, '[^;]+') do
    piece = string.match(piece, '^%s*(.-)%s*$')
    if piece ~= '' then list[#list + 1] = piece end
  end
  return list
end

-- The window of somebody who wants the same: none at all is the widest, two are a union. Whether it is another one now.
local function widen_window(job, window, outside)
  local own = window_of(job)
  if not own then return false end
  if not window then
    job.window = 'none'
    return true
  end
  local rate = outside and tonumber(outside)
  local faster = rate and rate > (outside_of(job) or 0)
  if faster then job.bandwidth_outside = int(rate) end
  local union, known = pieces(own), {}
  for _, piece in ipairs(union) do known[piece] = true end
  local before = #union
  for _, piece in ipairs(pieces(window)) do
    if not known[piece] and #union < MAX_WINDOWS then union[#union + 1] = piece end
  end
  if #union > before then job.window = table.concat(union, '; ') end
  return faster or #union > before
end

local function requeue(job)
  job.state = 'queued'
  job.reason = false
  job.due = int(NOW)
  quiet(job)
end

local function wake(job)
  local due = tonumber(job.due)
  if job.state == 'waiting' and not (due and due > NOW) then
    -- What it could not have run in is no waiting for its turn.
    if not job.reason or job.reason == 'outside_window' then job.ages_from = job.due or job.ages_from end
    job.state = 'queued'
    job.reason = false
  end
end

-- Follows the clock, so that a token which this server may have forgotten is never given twice.
local function next_token(job) return int(math.max(number(job, 'token') + 1, NOW)) end

local function give_attempt_back(job) job.attempts = int(math.max(number(job, 'attempts') - 1, 0)) end

-- What cannot be read becomes a dead letter: a clean record that keeps the payload and says what was wrong.
local function bury(id, job, kind, target, retention, reason, message, payload)
  local dead = draft({})
  dead.v, dead.id, dead.kind, dead.target, dead.want = '1', id, kind, target, job.want or ''
  dead.seq = tonumber(job.seq) and job.seq or int(redis.call('INCR', P .. 'seq') - 1)
  dead.created_at = tonumber(job.created_at) and job.created_at or int(NOW)
  dead.notify = #names(job.notify) > 0 and job.notify
  dead.anonymous, dead.job = '1', payload or job.job or cjson.encode(job)
  fail(dead, reason or 'invalid_request', message
    or 'the record of the job is damaged; hint: ask for the job again if it is still wanted', retention)
  -- Refused here when the memory is full, before anything is gone.
  redis.call('HSET', P .. 'job:' .. id, 'v', '1')
  redis.call('DEL', P .. 'job:' .. id)
  save(nil, dead)
  -- What it was before is unknown, so every place that it may lie in is looked at.
  for _, state in ipairs(UNENDED) do redis.call('ZREM', P .. 'jobs:' .. kind .. ':' .. state, id) end
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'deadlines:' .. kind, id)
  if redis.call('HGET', P .. 'wants', want_of(dead)) == id then redis.call('HDEL', P .. 'wants', want_of(dead)) end
  if job.nonce then redis.call('HDEL', P .. 'claims', job.nonce) end
end

