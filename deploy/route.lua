-- Orthanc sends each new film to cxrlines, and never what cxrlines sends back.
--
-- A film that cannot be sent, as the node is down, is a failed job of Orthanc (/jobs). Failed jobs are tried again: one of
-- them 60 s after films came (StableAge) and every LuaHeartBeatPeriod seconds (Orthanc 1.11.1 or later), and all of them
-- once the node has taken a film. Orthanc keeps as many of them as its JobsHistorySize says, across restarts too.

local MOST = 20   -- how often a film is sent again while others get through
local tries = {}  -- by job
local missed = true

local function isOurs(job)
  local node = ParseJson(RestApiGet('/modalities?expand'))['cxrlines']
  return job['Type'] == 'DicomModalityStore' and job['Content']['RemoteAet'] == node['AET']
end

local function failed()
  local found = {}
  for _, job in ipairs(ParseJson(RestApiGet('/jobs?expand'))) do
    if job['State'] == 'Failure' and (tries[job['ID']] or 0) < MOST and isOurs(job) then
      table.insert(found, job)
    end
  end
  table.sort(found, function(a, b) return a['CompletionTime'] < b['CompletionTime'] end)
  return found
end

local function again(job)
  RestApiPost('/jobs/' .. job['ID'] .. '/resubmit', '')
end

local function try()
  local oldest = missed and failed()[1]
  missed = oldest and true or false
  if oldest then
    again(oldest)
  end
end

function OnStoredInstance(instanceId, tags, metadata, origin)
  local film = tags['Modality'] == 'CR' or tags['Modality'] == 'DX'
  if film and tags['Manufacturer'] ~= 'cxrlines' then
    RestApiPost('/modalities/cxrlines/store', DumpJson({Resources = {instanceId}, Synchronous = false}))
  end
end

function OnJobFailure(jobId)
  missed = true
end

function OnJobSuccess(jobId)
  if missed and isOurs(ParseJson(RestApiGet('/jobs/' .. jobId))) then
    missed = false
    for _, job in ipairs(failed()) do
      tries[job['ID']] = (tries[job['ID']] or 0) + 1
      again(job)
    end
  end
end

OnStableStudy = try
OnHeartBeat = try
